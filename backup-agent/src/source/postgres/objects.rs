//! Everything that a schema consists of, as one question.
//!
//! What one server keeps in another way than the next is spelt out and sorted: rights
//! that were never given are stored as nothing or as the default, and lists have no
//! order. Members of extensions come with these and are not compared.

/// Each object with its kind, name, owner and the MD5 of its definition and rights.
pub(super) const OBJECTS: &str = "\
WITH member AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), space AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'
), relation AS (
  SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS full_name
  FROM pg_class c JOIN space n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't' AND NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), acl AS (
  SELECT 'pg_class'::regclass AS class, r.oid, coalesce(r.relacl, acldefault(
    CASE r.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r'::\"char\" END, r.relowner)) AS acl
  FROM relation r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL
  SELECT 'pg_proc'::regclass, f.oid, coalesce(f.proacl, acldefault('f', f.proowner))
  FROM pg_proc f JOIN space n ON n.oid = f.pronamespace
  UNION ALL
  -- What everybody may do in the public schema is another thing in the next version.
  SELECT 'pg_namespace'::regclass, n.oid, CASE WHEN n.nspname = 'public' THEN (
      SELECT array_agg(makeaclitem(a.grantee, a.grantor, a.privilege_type, a.is_grantable))
      FROM aclexplode(n.nspacl) a WHERE a.grantee NOT IN (0, n.nspowner))
    ELSE coalesce(n.nspacl, acldefault('n', n.nspowner)) END
  FROM space n
  UNION ALL
  SELECT 'pg_default_acl'::regclass, d.oid, d.defaclacl FROM pg_default_acl d
  UNION ALL
  SELECT 'pg_largeobject_metadata'::regclass, l.oid, coalesce(l.lomacl, acldefault('L', l.lomowner))
  FROM pg_largeobject_metadata l
), rights AS (
  SELECT acl.class, acl.oid, string_agg(format('%s=%s%s', CASE a.grantee WHEN 0 THEN 'public'
      ELSE pg_get_userbyid(a.grantee) END, a.privilege_type,
      CASE WHEN a.is_grantable THEN '*' ELSE '' END), ','
    ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee), a.privilege_type, a.is_grantable) AS text
  FROM acl, aclexplode(acl.acl) a GROUP BY acl.class, acl.oid
), object AS (
  -- The public schema belongs to whoever made the cluster, or to the database's owner.
  SELECT 'schema' AS kind, format('%I', n.nspname) AS name,
    CASE WHEN n.nspname = 'public' AND (n.nspowner = 10
      OR pg_get_userbyid(n.nspowner) = 'pg_database_owner') THEN ''
      ELSE pg_get_userbyid(n.nspowner) END AS owner,
    (SELECT text FROM rights x WHERE x.class = 'pg_namespace'::regclass AND x.oid = n.oid)
      AS definition
  FROM space n WHERE NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
  UNION ALL
  SELECT CASE r.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
      WHEN 'm' THEN 'materialised view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
      ELSE 'composite type' END,
    r.full_name, pg_get_userbyid(r.relowner),
    concat_ws(E'\\n', r.relpersistence::text, r.relrowsecurity::text, r.relforcerowsecurity::text,
      (SELECT text FROM rights x WHERE x.class = 'pg_class'::regclass AND x.oid = r.oid),
      (SELECT string_agg(entry, ',' ORDER BY entry) FROM unnest(r.reloptions) entry),
      (SELECT amname FROM pg_am WHERE pg_am.oid = r.relam),
      pg_get_expr(r.relpartbound, r.oid), pg_get_partkeydef(r.oid),
      (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno)
        FROM pg_inherits i WHERE i.inhrelid = r.oid),
      CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
      (SELECT format('%s %s %s %s %s %s %s', seqtypid::regtype, seqstart, seqincrement, seqmin,
        seqmax, seqcache, seqcycle) FROM pg_sequence s WHERE s.seqrelid = r.oid),
      (SELECT string_agg(concat_ws(' ', quote_ident(a.attname),
          format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text,
          a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid), a.attstorage::text,
          -- Minor releases since 15.20 note a version of their own among these.
          (SELECT string_agg(entry, ',' ORDER BY entry) FROM unnest(a.attoptions) entry
            WHERE starts_with(entry, 'n_distinct')),
          (SELECT string_agg(format('%s=%s', CASE x.grantee WHEN 0 THEN 'public'
              ELSE pg_get_userbyid(x.grantee) END, x.privilege_type), ','
            ORDER BY x.grantee = 0, pg_get_userbyid(x.grantee), x.privilege_type)
          FROM aclexplode(a.attacl) x)), E'\\n' ORDER BY a.attnum)
        FROM pg_attribute a
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped))
  FROM relation r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  UNION ALL
  SELECT 'index', r.full_name, '', pg_get_indexdef(r.oid)
  FROM relation r WHERE r.relkind IN ('i', 'I')
  UNION ALL
  -- What may not be null stands with the columns, and is a constraint only since 18.
  SELECT 'constraint', format('%s of %s', quote_ident(c.conname), r.full_name), '',
    pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN relation r ON r.oid = c.conrelid WHERE c.contype <> 'n'
  UNION ALL
  SELECT 'constraint', format('%s of %s', quote_ident(c.conname), format_type(t.oid, NULL)), '',
    pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN pg_type t ON t.oid = c.contypid JOIN space n ON n.oid = t.typnamespace
  WHERE c.contype <> 'n'
  UNION ALL
  SELECT 'trigger', format('%s of %s', quote_ident(t.tgname), r.full_name), '',
    t.tgenabled::text || pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'rule', format('%s of %s', quote_ident(w.rulename), r.full_name), '',
    w.ev_enabled::text || pg_get_ruledef(w.oid)
  FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy', format('%s of %s', quote_ident(p.polname), r.full_name), '',
    concat_ws(E'\\n', p.polcmd::text, p.polpermissive::text,
      (SELECT string_agg(CASE role WHEN 0 THEN 'public' ELSE pg_get_userbyid(role) END, ','
        ORDER BY role = 0, pg_get_userbyid(role)) FROM unnest(p.polroles) role),
      pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL
  SELECT 'statistics', format('%I.%I', n.nspname, s.stxname), pg_get_userbyid(s.stxowner),
    pg_get_statisticsobjdef(s.oid)
  FROM pg_statistic_ext s JOIN space n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT 'function', format('%I.%I(%s)', n.nspname, f.proname,
      pg_get_function_identity_arguments(f.oid)), pg_get_userbyid(f.proowner),
    concat_ws(E'\\n', CASE WHEN f.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(f.oid) END,
      (SELECT text FROM rights x WHERE x.class = 'pg_proc'::regclass AND x.oid = f.oid))
  FROM pg_proc f JOIN space n ON n.oid = f.pronamespace
  WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = f.oid)
  UNION ALL
  SELECT 'type', format_type(t.oid, NULL), pg_get_userbyid(t.typowner),
    concat_ws(E'\\n', t.typtype::text, CASE WHEN t.typbasetype <> 0 THEN
      format_type(t.typbasetype, t.typtypmod) END, t.typnotnull::text, t.typdefault,
      (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = t.oid))
  FROM pg_type t JOIN space n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('d', 'e', 'r') AND NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
  UNION ALL
  SELECT 'collation', format('%I.%I', n.nspname, c.collname), pg_get_userbyid(c.collowner),
    concat_ws(' ', c.collprovider::text, c.collisdeterministic::text, c.collcollate, c.collctype)
  FROM pg_collation c JOIN space n ON n.oid = c.collnamespace
  UNION ALL
  SELECT 'operator', o.oid::regoperator::text, pg_get_userbyid(o.oprowner), o.oprcode::text
  FROM pg_operator o JOIN space n ON n.oid = o.oprnamespace WHERE NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
  UNION ALL
  SELECT 'text search configuration', format('%I.%I', n.nspname, c.cfgname),
    pg_get_userbyid(c.cfgowner), ''
  FROM pg_ts_config c JOIN space n ON n.oid = c.cfgnamespace WHERE NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_ts_config'::regclass AND m.objid = c.oid)
  UNION ALL
  SELECT 'event trigger', quote_ident(e.evtname), pg_get_userbyid(e.evtowner),
    concat_ws(' ', e.evtevent::text, e.evtenabled::text, e.evttags::text, e.evtfoid::regproc::text)
  FROM pg_event_trigger e WHERE NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = e.oid)
  UNION ALL
  SELECT 'publication', quote_ident(p.pubname), pg_get_userbyid(p.pubowner),
    concat_ws(' ', p.puballtables::text, p.pubinsert::text, p.pubupdate::text, p.pubdelete::text,
      p.pubtruncate::text, p.pubviaroot::text,
      (SELECT string_agg(format('%I.%I', t.schemaname, t.tablename), ','
        ORDER BY t.schemaname, t.tablename) FROM pg_publication_tables t
      WHERE t.pubname = p.pubname))
  FROM pg_publication p
  UNION ALL
  SELECT 'foreign server', quote_ident(s.srvname), pg_get_userbyid(s.srvowner),
    concat_ws(' ', (SELECT fdwname::text FROM pg_foreign_data_wrapper w WHERE w.oid = s.srvfdw),
      s.srvtype, s.srvversion, s.srvoptions::text)
  FROM pg_foreign_server s
  UNION ALL
  SELECT 'default privileges', concat_ws(' ', 'of', pg_get_userbyid(d.defaclrole), 'on',
      CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
        WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END,
      'in ' || (SELECT nspname FROM space n WHERE n.oid = d.defaclnamespace)), '',
    (SELECT text FROM rights x WHERE x.class = 'pg_default_acl'::regclass AND x.oid = d.oid)
  FROM pg_default_acl d
  UNION ALL
  -- Those of extensions come with these.
  SELECT 'comment', concat_ws(' ', 'on', i.type, i.identity), '', d.description
  FROM pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) i
  WHERE d.objoid >= 16384 AND d.classoid <> 'pg_extension'::regclass AND NOT EXISTS (
    SELECT FROM member m WHERE m.classid = d.classoid AND m.objid = d.objoid)
  UNION ALL
  SELECT 'large object', l.oid::text, pg_get_userbyid(l.lomowner),
    (SELECT text FROM rights x
      WHERE x.class = 'pg_largeobject_metadata'::regclass AND x.oid = l.oid)
  FROM pg_largeobject_metadata l
)
SELECT coalesce(json_agg(json_build_object('kind', kind, 'name', name, 'owner', owner,
  'definition', md5(coalesce(definition, '')))), '[]') FROM object";
