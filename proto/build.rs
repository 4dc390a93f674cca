//! Compiles the `.proto` files without a system `protoc`, and turns the `access` option of every
//! method into one Rust table.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// Packages that get a descriptor set of their own, so that a daemon only carries what it serves.
const PACKAGES: [&str; 4] = ["agent", "backup", "inference", "controller"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=homelab");

    let files = proto_files(Path::new("homelab"))?;
    let pool = compile(&files)?;
    fs::write(out.join("homelab.binpb"), pool.encode_to_vec())?;
    for package in PACKAGES {
        let wanted: Vec<_> = files
            .iter()
            .filter(|file| {
                file.starts_with(format!("homelab/{package}"))
                    || file.ends_with("common/v1/node.proto")
            })
            .cloned()
            .collect();
        fs::write(out.join(format!("{package}.binpb")), compile(&wanted)?.encode_to_vec())?;
    }
    fs::write(out.join("methods.rs"), methods(&pool)?)?;

    let set = prost_types(&pool)?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}

fn proto_files(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn compile(files: &[PathBuf]) -> Result<DescriptorPool, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    Ok(compiler.descriptor_pool())
}

fn prost_types(
    pool: &DescriptorPool,
) -> Result<tonic_prost_build::FileDescriptorSet, Box<dyn Error>> {
    Ok(tonic_prost_build::FileDescriptorSet::decode(pool.encode_to_vec().as_slice())?)
}

/// One `Method` literal for every method of every service, sorted by path.
fn methods(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let option = pool
        .get_extension_by_name("homelab.common.v1.access")
        .ok_or("the access option is not defined")?;
    let mut rows = Vec::new();
    for service in pool.services().filter(|service| service.full_name().starts_with("homelab.")) {
        for method in service.methods() {
            let options = method.options();
            let access =
                options.has_extension(&option).then(|| options.get_extension(&option).into_owned());
            rows.push((path_of(&method), row(&method, access.as_ref())?));
        }
    }
    rows.sort();
    let mut text = String::from(
        "/// Every method of the protocol with its `access` option, sorted by path.\npub const METHODS: &[Method] = &[\n",
    );
    for (_, row) in rows {
        text.push_str(&row);
    }
    text.push_str("];\n");
    Ok(text)
}

fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn row(method: &MethodDescriptor, access: Option<&Value>) -> Result<String, Box<dyn Error>> {
    let mut row = String::new();
    write!(row, "    Method {{ path: \"{}\", access: ", path_of(method))?;
    match access.and_then(Value::as_message) {
        None => row.push_str("None"),
        Some(access) => write!(
            row,
            "Some(Access {{ role: {}, kinds: &[{}], anonymous: {}, mutates: {} }})",
            role(access)?,
            kinds(access)?,
            flag(access, "anonymous"),
            flag(access, "mutates"),
        )?,
    }
    writeln!(row, ", server_streaming: {} }},", method.is_server_streaming())?;
    Ok(row)
}

fn role(access: &DynamicMessage) -> Result<String, Box<dyn Error>> {
    let field = access.get_field_by_name("role").ok_or("access has no role")?;
    let number = field.as_enum_number().ok_or("role is not an enum")?;
    let names = [
        "None",
        "Some(Role::Viewer)",
        "Some(Role::Operator)",
        "Some(Role::Admin)",
        "Some(Role::Approver)",
    ];
    let name = usize::try_from(number).ok().and_then(|index| names.get(index));
    Ok((*name.ok_or("unknown role")?).to_owned())
}

fn kinds(access: &DynamicMessage) -> Result<String, Box<dyn Error>> {
    let names = ["", "Agent", "BackupAgent", "GpuWorker", "Controller", "User"];
    let field = access.get_field_by_name("kinds").ok_or("access has no kinds")?;
    let mut text = Vec::new();
    for value in field.as_list().ok_or("kinds is not a list")? {
        let number = value.as_enum_number().ok_or("kind is not an enum")?;
        let name = usize::try_from(number)
            .ok()
            .and_then(|index| names.get(index))
            .ok_or("unknown kind")?;
        text.push(format!("PeerKind::{name}"));
    }
    Ok(text.join(", "))
}

fn flag(access: &DynamicMessage, name: &str) -> bool {
    access.get_field_by_name(name).and_then(|value| value.as_bool()).unwrap_or_default()
}
