#!/usr/bin/python3
"""Answers like `zfs` of OpenZFS 2.3 out of a JSON file beside it: the verbs, texts and exit
codes that the tests need, with streams whose first and last records have the true form.

`cut` beside it holds how many bytes of the next stream come through; `clear` makes `send -w`
send in the clear, as no true one does; `calls` collects every command line."""
import hashlib, json, os, shutil, struct, sys

HOME = os.path.dirname(os.path.abspath(__file__))
STATE = os.path.join(HOME, "state.json")
SEND = """missing snapshot argument
usage:
	send [-DLPbcehnpsVvw] [-i|-I snapshot]
	     [-R [-X dataset[,dataset]...]] <snapshot>
	send [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>
	send [-nVvPe] -t <receive_resume_token>
"""
RECEIVE = """missing snapshot argument
usage:
	receive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...
	    <filesystem|volume|snapshot>
	receive -A <filesystem|volume>
"""
BOOKMARK = "missing source argument\nusage:\n\tbookmark <snapshot|bookmark> <newbookmark>\n"
state = json.load(open(STATE)) if os.path.exists(STATE) else {"txg": 10, "time": 1795000000, "of": {}}
of = state["of"]


def save():
    with open(STATE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(STATE + ".new", STATE)


def fail(text, code=1):
    save()
    sys.stderr.write(text + "\n")
    sys.exit(code)


def tick():
    state["txg"] += 1
    return state["txg"]


def guid(*words):
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return struct.unpack("<Q", digest[:8])[0] or 1


def dataset(name):
    if name not in of:
        fail(f"cannot open '{name}': dataset does not exist")
    return of[name]


def find(full):
    """A dataset, snapshot or bookmark by its full name."""
    for mark, kind in (("@", "snapshots"), ("#", "bookmarks")):
        if mark in full:
            name, part = full.split(mark)
            if part not in dataset(name)[kind]:
                fail(f"cannot open '{full}': dataset does not exist")
            return dataset(name)[kind][part]
    return dataset(full)


def new_dataset(name, properties):
    txg = tick()
    of[name] = {"guid": guid(name, txg), "createtxg": txg, "creation": state["time"], "own": properties,
                "snapshots": {}, "bookmarks": {}, "files": {}, "mounted": "no", "partial": None}


def inherited(name, key):
    """The value of a property and where it comes from."""
    if "@" in name or "#" in name:
        own = find(name).get("own", {})
        if key in own:
            return own[key], "local"
        name = name.replace("#", "@").split("@")[0]
        if ":" not in key:
            return "-", "-"
        value, source = inherited(name, key)
        return value, source if source == "-" or source.startswith("inh") else f"inherited from {name}"
    if key in dataset(name)["own"]:
        return dataset(name)["own"][key], "local"
    above = name
    while "/" in above:
        above = above.rsplit("/", 1)[0]
        if above in of and key in of[above]["own"] and key not in ("encryption", "kept-off"):
            return of[above]["own"][key], f"inherited from {above}"
    return {"mountpoint": "none", "encryption": "off", "readonly": "off"}.get(key, "-"), "-"


def value(name, key):
    thing = find(name)
    if key in ("guid", "createtxg", "creation"):
        return str(thing[key]), "-"
    if key == "type":
        return ("snapshot" if "@" in name else "bookmark" if "#" in name else "filesystem"), "-"
    if "#" in name:
        return inherited(name, key)
    if "@" in name:
        if key == "userrefs":
            return str(len(thing["holds"])), "-"
        if key in ("used", "referenced"):
            return "4096", "-"
        return inherited(name, key)
    if key in ("used", "referenced"):
        return "4096", "-"
    if key == "mounted":
        return thing["mounted"], "-"
    if key == "written":
        return str(thing.get("written", 0)), "-"
    if key == "receive_resume_token":
        return (thing["partial"]["token"] if thing["partial"] else "-"), "-"
    return inherited(name, key)


def get(words):
    options, words = words[: len(words) - 2], words[-2:]
    wanted, name = words
    dataset(name) if "@" not in name else find(name)
    names = [name]
    if "-d" in options:
        names += [f"{name}@{it}" for it in of[name]["snapshots"]]
        names += [f"{name}#{it}" for it in of[name]["bookmarks"]]
        names += [it for it in of if it.rsplit("/", 1)[0] == name and it != name]
    for one in names:
        keys = wanted.split(",")
        if wanted == "all":
            keys = ["type", "guid", "createtxg", "mountpoint", "encryption"]
            keys += [it for it in of[one]["own"] if it not in keys]
            keys += [it for above in of if name.startswith(above + "/") for it in of[above]["own"] if it not in keys]
        for key in keys:
            print("\t".join((one, key, *value(one, key))))


def settings(words):
    """Takes `-o key=value` out of the words."""
    own, rest, at = {}, [], 0
    while at < len(words):
        if words[at] == "-o":
            key, text = words[at + 1].split("=", 1)
            own[key] = text
            at += 1
        else:
            rest.append(words[at])
        at += 1
    return own, rest


def snapshot(words):
    own, (full,) = settings(words)
    name, at = full.split("@")
    if at in dataset(name)["snapshots"]:
        fail(f"cannot create snapshot '{full}': dataset already exists")
    txg = tick()
    state["time"] += 3600
    of[name]["snapshots"][at] = {"guid": guid(full, txg), "createtxg": txg, "creation": state["time"], "own": own,
                                 "holds": [], "files": dict(of[name]["files"])}
    where = inherited(name, "mountpoint")[0]
    if of[name]["mounted"] == "yes":
        fill(os.path.join(where, ".zfs/snapshot", at), of[name]["files"])


def fill(folder, files):
    os.makedirs(folder, exist_ok=True)
    for path, text in files.items():
        with open(os.path.join(folder, path), "w") as file:
            file.write(text)
        os.utime(os.path.join(folder, path), (1795000000, 1795000000))
    os.utime(folder, (1795000000, 1795000000))


def begin(to, base, raw, snap):
    features = (1 << 24) if raw else (1 << 22 | 1 << 19)
    head = struct.pack("<IIQQQIIQQ", 0, 0, 0x2F5BACBAC, 1 | features << 2, snap["creation"], 2, 0, to, base)
    return head + snap["full"].encode().ljust(256, b"\0")


def end(to):
    return struct.pack("<II", 5, 0) + b"\x11" * 32 + struct.pack("<Q", to) + b"\0" * 264


def emit(data):
    cut = os.path.join(HOME, "cut")
    most = len(data)
    if os.path.exists(cut):
        most = int(open(cut).read())
        os.remove(cut)
    try:
        sys.stdout.buffer.write(data[:most])
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        fail("warning: cannot send: Broken pipe")
    if most < len(data):
        fail("warning: cannot send: Input/output error")


def body(snap, base):
    meta = json.dumps({"snap": snap, "base": base}).encode()
    return struct.pack("<I", len(meta)) + meta + hashlib.sha256(meta).digest() * 2000


def send(words):
    if not words:
        fail(SEND, 2)
    if "-t" in words or "-nvt" in words:
        token = words[-1]
        told = json.loads(bytes.fromhex(token[2:]))
        if words[0] == "-nvt":
            sys.stderr.write("resume token contents:\nnvlist version: 0\n\tobject = 0x2\n\toffset = 0x0\n")
            sys.stderr.write(f"\tbytes = {hex(told['bytes'])}\n\ttoguid = {hex(told['to'])}\n")
            sys.stderr.write(f"\tfromguid = {hex(told['from'])}\n" if told["from"] else "")
            sys.stderr.write(f"\ttoname = {told['name']}\n\tcompressok = 1\n")
        name, at = told["name"].split("@")
        if of.get(name, {"snapshots": {}})["snapshots"].get(at, {}).get("guid") != told["to"]:
            fail(f"cannot resume send: '{told['name']}' used in the initial send no longer exists", 255)
        if words[0] == "-nvt":
            return
        snap = dict(find(told["name"]), full=told["name"])
        emit(begin(told["to"], told["from"], told["raw"], snap) + body(snap, told["from"])[told["bytes"]:] + end(told["to"]))
        return
    base = 0
    if "-i" in words:
        at = words.index("-i")
        base = find(words[at + 1])
        if base["createtxg"] >= find(words[-1])["createtxg"]:
            fail(f"cannot send '{words[-1]}': not an earlier snapshot from the same fs")
        base = base["guid"]
        del words[at : at + 2]
    snap = dict(find(words[-1]), full=words[-1])
    encrypted = inherited(words[-1].split("@")[0], "encryption")[0] != "off"
    if encrypted and "-w" not in words and not os.path.exists(os.path.join(HOME, "clear")):
        fail(f"cannot send {words[-1]}: encrypted dataset {words[-1]} may not be sent with properties without the raw flag")
    raw = "-w" in words and encrypted and not os.path.exists(os.path.join(HOME, "clear"))
    emit(begin(snap["guid"], base, raw, snap) + body(snap, base) + end(snap["guid"]))


def receive(words):
    if not words:
        fail(RECEIVE, 2)
    if words[0] == "-A":
        if not dataset(words[1])["partial"]:
            fail(f"'{words[1]}' does not have any resumable receive state to abort")
        of[words[1]]["partial"] = None
        return
    own, words = settings(words)
    if any("F" in word for word in words[:-1]):
        fail("the tests never receive by force", 3)
    name, data = words[-1], sys.stdin.buffer.read()
    what = "cannot receive new filesystem stream" if name not in of else "cannot receive incremental stream"
    if len(data) < 312:
        fail(f"{what}: invalid backup stream")
    to, base = struct.unpack("<QQ", data[40:56])
    raw = bool(struct.unpack("<Q", data[16:24])[0] >> 2 & 1 << 24)
    full_name = data[56:312].rstrip(b"\0").decode()
    partial = of[name]["partial"] if name in of else None
    if partial and partial["to"] != to:
        fail(f"{what}: destination {name} contains partially-complete state from \"zfs receive -s\".")
    if not partial and not base and name in of:
        fail(f"cannot receive new filesystem stream: destination '{name}' exists\nmust specify -F to overwrite it")
    if name in of and base:
        newest = max(of[name]["snapshots"].values(), key=lambda it: it["createtxg"])
        if newest["guid"] != base:
            fail(f"cannot receive incremental stream: most recent snapshot of {name} does not\nmatch incremental source")
        if of[name].get("written"):
            fail(f"cannot receive incremental stream: destination {name} has been modified\nsince most recent snapshot")
    whole = data[-312:][:4] == b"\5\0\0\0" and len(data) >= 624
    payload = bytes.fromhex(partial["payload"]) if partial else b""
    payload += data[312:-312] if whole else data[312:]
    if not whole:
        if "-s" not in words:
            fail(f"{what}: checksum mismatch or incomplete stream")
        if name not in of:
            new_dataset(name, own)
        token = "1-" + json.dumps({"to": to, "from": base, "name": full_name, "bytes": len(payload), "raw": raw}).encode().hex()
        of[name]["partial"] = {"to": to, "payload": payload.hex(), "token": token}
        fail(f"{what}: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\n"
             f"A resuming stream can be generated on the sending system by running:\n    zfs send -t {token[:40]}")
    size = struct.unpack("<I", payload[:4])[0]
    meta = json.loads(payload[4 : 4 + size])
    if name not in of:
        new_dataset(name, own)
    of[name]["own"].update({"encryption": "aes-256-gcm"} if raw else {})
    of[name]["partial"] = None
    of[name]["files"] = meta["snap"]["files"]
    of[name]["snapshots"][full_name.split("@")[1]] = {
        "guid": to, "createtxg": tick(), "creation": meta["snap"]["creation"], "own": {}, "holds": [],
        "files": meta["snap"]["files"]}


def destroy(words):
    (full,) = words
    thing = find(full)
    if "@" in full:
        if thing["holds"]:
            fail(f"cannot destroy snapshot {full}: dataset is busy")
        del of[full.split("@")[0]]["snapshots"][full.split("@")[1]]
        return
    if thing["snapshots"] or any(it.startswith(full + "/") for it in of):
        fail(f"cannot destroy '{full}': filesystem has children\nuse '-r' to destroy the following datasets:")
    del of[full]


def main(verb, words):
    with open(os.path.join(HOME, "calls"), "a") as calls:
        calls.write(" ".join([verb, *words]) + "\n")
    if verb == "version":
        print("zfs-2.3.9-1\nzfs-kmod-2.3.9-1")
    elif verb == "get":
        get(words)
    elif verb == "create":
        own, (name,) = settings(words)
        new_dataset(name, own)
    elif verb == "snapshot":
        snapshot(words)
    elif verb == "send":
        send(words)
    elif verb == "receive":
        receive(words)
    elif verb == "destroy":
        destroy(words)
    elif verb == "bookmark":
        if not words:
            fail(BOOKMARK, 2)
        snap, mark = find(words[0]), words[1].split("#")
        if mark[1] in of[mark[0]]["bookmarks"]:
            fail(f"cannot create bookmark '{words[1]}': bookmark exists")
        of[mark[0]]["bookmarks"][mark[1]] = {key: snap[key] for key in ("guid", "createtxg", "creation")}
    elif verb == "hold":
        if words[0] in find(words[1])["holds"]:
            fail(f"cannot hold snapshot '{words[1]}': tag already exists on this dataset")
        find(words[1])["holds"].append(words[0])
    elif verb == "release":
        if words[0] not in find(words[1])["holds"]:
            fail(f"cannot release hold from snapshot '{words[1]}': no such tag on this dataset")
        find(words[1])["holds"].remove(words[0])
    elif verb == "set":
        key, text = words[0].split("=", 1)
        find(words[1])["own"][key] = text
    elif verb == "mount":
        fill(dataset(words[0])["own"]["mountpoint"], dataset(words[0])["files"])
        of[words[0]]["mounted"] = "yes"
    elif verb == "unmount":
        where = dataset(words[0])["own"]["mountpoint"]
        shutil.rmtree(where)
        os.mkdir(where)
        of[words[0]]["mounted"] = "no"
    elif verb == "test-file":  # dataset, path, text: for the tests alone
        dataset(words[0])["files"][words[1]] = words[2]
    elif verb == "test-written":  # dataset: somebody wrote there
        dataset(words[0])["written"] = 8192
    else:
        fail(f"unrecognized command '{verb}'\nusage: zfs command args ...", 2)
    save()


main(sys.argv[1], sys.argv[2:])
