use super::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

/// A root directory with a program, a link and a private file.
fn root_directory(dir: &Path) -> PathBuf {
    let root = dir.join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/app"), "#!").unwrap();
    fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("app", root.join("bin/alias")).unwrap();
    root
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&Paths::new(dir.path()), &[]).unwrap();
    (dir, store)
}

/// An image of one layer, made of these tar entries, through the `docker save` format.
fn import_layer(
    dir: &Path,
    store: &ImageStore,
    build: impl FnOnce(&mut tar::Builder<Vec<u8>>),
) -> Result<Vec<Image>, ImageError> {
    let mut layer = tar::Builder::new(Vec::new());
    build(&mut layer);
    import_layers(dir, store, "t:1", &[layer.into_inner().unwrap()])
}

/// An image of these layers.
fn import_layers(
    dir: &Path,
    store: &ImageStore,
    name: &str,
    layers: &[Vec<u8>],
) -> Result<Vec<Image>, ImageError> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| diff_id(layer)).collect();
    import_claiming(dir, store, name, layers, &diff_ids)
}

fn diff_id(layer: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    layout::digest_text(Sha256::new_with_prefix(layer))
}

/// An image of these layers, of which its configuration says these digests.
fn import_claiming(
    dir: &Path,
    store: &ImageStore,
    name: &str,
    layers: &[Vec<u8>],
    diff_ids: &[String],
) -> Result<Vec<Image>, ImageError> {
    let saved = dir.join("saved");
    fs::create_dir_all(&saved).unwrap();
    let files: Vec<_> = (0..layers.len()).map(|index| format!("{index}.tar")).collect();
    for (file, layer) in files.iter().zip(layers) {
        fs::write(saved.join(file), layer).unwrap();
    }
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    fs::write(saved.join("config.json"), config.to_string()).unwrap();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]);
    fs::write(saved.join("manifest.json"), manifest.to_string()).unwrap();
    store.import(&saved, None)
}

/// A header of GNU's form whose fields are blank but for these.
fn header(kind: tar::EntryType, name: &str, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn put(tar: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, data: &[u8]) {
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn layer_of(image: &Image, index: usize) -> &Path {
    let Content::Layers(layers) = &image.content else { panic!("{:?}", image.content) };
    &layers[index]
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: Option<&str>, data: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    // Written past the builder's own checks, as an attacker would.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    if let Some(link) = link {
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    tar.append(&header, data.as_bytes()).unwrap();
}

#[test]
fn a_packed_directory_is_an_image() {
    let (dir, store) = store();
    let options = PackOptions { entrypoint: vec!["/bin/app".to_owned()], ..PackOptions::default() };
    let image = store.pack(&root_directory(dir.path()), "app:1", &options).unwrap();
    assert_eq!(image.reference, "docker.io/library/app:1");
    assert_eq!(store.get("app:1"), Some(image.clone()));
    let Content::Layers(layers) = &image.content else { panic!("{:?}", image.content) };
    assert_eq!(fs::read_link(layers[0].join("bin/alias")).unwrap(), Path::new("app"));
    assert_eq!(fs::metadata(layers[0].join("bin/app")).unwrap().permissions().mode() & 0o777, 0o755);
    let again = store.pack(&dir.path().join("rootfs"), "app:2", &options).unwrap();
    assert_eq!(again.digest, image.digest, "equal trees make equal images");
    store.remove("app:1").unwrap();
    assert!(layers[0].is_dir(), "still needed by app:2");
    store.remove("app:2").unwrap();
    assert!(!layers[0].exists() && store.list().is_empty());
}

#[test]
fn a_wasm_file_is_an_image() {
    let (dir, store) = store();
    let file = dir.path().join("x.wasm");
    fs::write(&file, b"\0asm\x0d\0\x01\0").unwrap();
    let image = store.import(&file, Some("x:1")).unwrap().remove(0);
    let Content::Wasm { module, .. } = &image.content else { panic!("{:?}", image.content) };
    assert_eq!(fs::read(module).unwrap(), b"\0asm\x0d\0\x01\0");
    assert!(store.import(&file, None).is_err(), "a name is needed");
}

#[test]
fn an_entry_point_that_ends_in_wasm_is_wasm() {
    let (dir, store) = store();
    let root = dir.path().join("rootfs");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("app.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let entrypoint = vec!["/app.wasm".to_owned(), "serve".to_owned()];
    let image = store.pack(&root, "w:1", &PackOptions { entrypoint, ..PackOptions::default() }).unwrap();
    assert!(matches!(&image.content, Content::Wasm { module, .. } if module.ends_with("app.wasm")));
}

#[test]
fn a_layer_cannot_reach_outside() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (dir, store) = store();
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let climbing = import_layer(dir.path(), &store, |t| entry(t, Regular, "../../../escaped", None, "x"));
    assert!(climbing.unwrap_err().to_string().contains("climbs out of the layer"));
    let link = secret.to_str().unwrap();
    let linked = import_layer(dir.path(), &store, |t| entry(t, Link, "steal", Some(link), ""));
    assert!(linked.is_err(), "a hard link to a file of the node");
    let through = import_layer(dir.path(), &store, |t| {
        entry(t, Symlink, "out", Some(dir.path().to_str().unwrap()), "");
        entry(t, Regular, "out/secret", None, "overwritten");
    });
    // The link is resolved inside the layer's own root, so this makes a file there, or fails.
    drop(through);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert!(!dir.path().join("escaped").exists());
}

#[test]
fn whiteouts_become_what_overlayfs_knows() {
    use tar::EntryType::{Directory, Regular};
    let (dir, store) = store();
    let image = import_layer(dir.path(), &store, |t| {
        entry(t, Directory, "etc/", None, "");
        entry(t, Regular, "etc/.wh.gone", None, "");
        entry(t, Directory, "var/", None, "");
        entry(t, Regular, "var/.wh..wh..opq", None, "");
    });
    let image = image.unwrap().remove(0);
    let Content::Layers(layers) = &image.content else { panic!("{:?}", image.content) };
    assert!(fs::symlink_metadata(layers[0].join("etc/gone")).unwrap().file_type().is_char_device());
    let mut value = [0u8; 4];
    let path = std::ffi::CString::new(layers[0].join("var").to_str().unwrap()).unwrap();
    // SAFETY: both names are terminated, the buffer is as long as said.
    let got = unsafe {
        libc::lgetxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), 4)
    };
    assert_eq!((got, value[0]), (1, b'y'));
}

#[test]
fn a_layer_that_is_not_what_it_says_is_refused() {
    let (dir, store) = store();
    import_layer(dir.path(), &store, |t| entry(t, tar::EntryType::Regular, "a", None, "1")).unwrap();
    let config = dir.path().join("saved/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let at = text.rfind("sha256:").unwrap() + 7;
    let forged = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
    fs::write(&config, forged).unwrap();
    let error = store.import(&dir.path().join("saved"), Some("forged:1")).unwrap_err().to_string();
    assert!(error.contains("unpacks to"), "{error}");
    assert!(store.get("forged:1").is_none());
}

#[test]
fn devices_are_left_out() {
    use tar::EntryType::{Block, Char, Fifo, Link, Regular};
    let (dir, store) = store();
    let device = |kind, name: &str, major, minor| {
        let mut header = header(kind, name, 0o666, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header
    };
    let image = import_layer(dir.path(), &store, |t| {
        put(t, device(Block, "sda", 8, 0), b"");
        put(t, device(Char, "mem", 1, 1), b"");
        put(t, device(Char, "gone", 0, 0), b"");
        // GNU tar and Python's tarfile leave these fields blank.
        put(t, header(Char, "gone-too", 0, 0), b"");
        put(t, header(Fifo, "fifo", 0o622, 0), b"");
        let mut link = header(Link, "disk", 0o666, 0);
        link.set_link_name("sda").unwrap();
        put(t, link, b"");
        put(t, header(Regular, "file", 0o644, 1), b"x");
    });
    let image = image.unwrap().remove(0);
    let root = layer_of(&image, 0);
    let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["fifo", "file", "gone", "gone-too"]);
    assert_eq!(image.devices_left_out, 2);
    use std::os::unix::fs::MetadataExt;
    for name in ["gone", "gone-too"] {
        let metadata = fs::symlink_metadata(root.join(name)).unwrap();
        assert!(metadata.file_type().is_char_device() && metadata.rdev() == 0, "{name}");
    }
    let fifo = fs::symlink_metadata(root.join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo() && fifo.mode() & 0o777 == 0o622);
}

#[test]
fn parents_that_a_layer_does_not_list_are_as_below() {
    use std::os::unix::fs::MetadataExt;
    use tar::EntryType::{Directory, Regular};
    let (dir, store) = store();
    let tar = |build: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut tar = tar::Builder::new(Vec::new());
        build(&mut tar);
        tar.into_inner().unwrap()
    };
    let home = |uid, mode| {
        tar(&|t| {
            put(t, header(Directory, "./", 0o711, 0), b"");
            put(t, header(Directory, "tmp/", 0o1777, 0), b"");
            let mut home = header(Directory, "home/app/", mode, 0);
            home.set_uid(uid);
            home.set_gid(uid);
            put(t, home, b"");
        })
    };
    let upper = tar(&|t| {
        put(t, header(Regular, "tmp/file", 0o644, 1), b"x");
        put(t, header(Regular, "home/app/sub/file", 0o644, 1), b"x");
    });
    let between = tar(&|t| put(t, header(Regular, "other", 0o644, 1), b"x"));
    let first = vec![home(1000, 0o700), between, upper.clone()];
    let first = import_layers(dir.path(), &store, "a:1", &first).unwrap().remove(0);
    let second = import_layers(dir.path(), &store, "b:1", &[home(2000, 0o750), upper]).unwrap().remove(0);
    let seen = |image: &Image, index: usize, path: &str| {
        let metadata = fs::metadata(layer_of(image, index).join(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(seen(&first, 2, "tmp"), (0o1777, 0, 0));
    assert_eq!(seen(&first, 2, "home/app"), (0o700, 1000, 1000));
    assert_eq!(seen(&first, 2, "home/app/sub"), (0o755, 0, 0), "nobody has it below");
    assert_eq!(seen(&first, 2, "."), (0o711, 0, 0), "the root is one of them");
    // The same layer on others is another.
    assert_eq!(seen(&second, 1, "home/app"), (0o750, 2000, 2000));
    store.remove("a:1").unwrap();
    assert!(!layer_of(&first, 2).exists() && layer_of(&second, 1).exists());
}

#[test]
fn what_an_image_may_use_is_limited() {
    use tar::EntryType::{GNULongLink, GNULongName, GNUSparse, Regular, XHeader};
    let (dir, store) = store();
    for kind in [GNULongName, GNULongLink, XHeader] {
        let image = import_layer(dir.path(), &store, |t| {
            put(t, header(kind, "special", 0o644, 4 << 20), &vec![b'a'; 4 << 20]);
            put(t, header(Regular, "file", 0o644, 0), b"");
        });
        let error = image.unwrap_err().to_string();
        assert!(error.contains("headers are larger than 1 MiB"), "{kind:?}: {error}");
    }
    let holes = import_layer(dir.path(), &store, |t| {
        let mut sparse = header(GNUSparse, "sparse", 0o644, 512);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_real_size(33 << 30);
        gnu.sparse[0].set_offset((33 << 30) - 512);
        gnu.sparse[0].set_length(512);
        put(t, sparse, &[1; 512]);
    });
    let error = holes.unwrap_err().to_string();
    assert!(error.contains("the image unpacks to more than 32 GiB"), "{error}");
    let pax = import_layer(dir.path(), &store, |t| {
        t.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
        put(t, header(Regular, "GNUSparseFile.0/x", 0o644, 0), b"");
    });
    assert!(pax.unwrap_err().to_string().contains("sparse files in PAX form"));
}

#[test]
fn a_sparse_file_stays_one() {
    use std::os::unix::fs::MetadataExt;
    let (dir, store) = store();
    let image = import_layer(dir.path(), &store, |t| {
        let mut sparse = header(tar::EntryType::GNUSparse, "sparse", 0o644, 512);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_real_size(64 << 20);
        gnu.sparse[0].set_offset(32 << 20);
        gnu.sparse[0].set_length(512);
        gnu.sparse[1].set_offset(64 << 20);
        gnu.sparse[1].set_length(0);
        put(t, sparse, &[1; 512]);
    });
    let image = image.unwrap().remove(0);
    let metadata = fs::metadata(layer_of(&image, 0).join("sparse")).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

/// An image of bare layers of these media types, each with a module of its own.
fn import_artifact(dir: &Path, store: &ImageStore, media_types: &[&str]) -> Result<Vec<Image>, ImageError> {
    let blobs = dir.join("oci/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        use sha2::{Digest, Sha256};
        let digest = layout::digest_text(Sha256::new_with_prefix(bytes));
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        (digest, bytes.len())
    };
    let describe = |media_type: &str, bytes: &[u8]| {
        let (digest, size) = put(bytes);
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let layer = |(index, media_type): (usize, &&str)| {
        describe(media_type, &[b"\0asm\x01\0\0\0".as_slice(), &[0, 1, index as u8]].concat())
    };
    let layers: Vec<_> = media_types.iter().enumerate().map(layer).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": describe("application/vnd.x+json", b"{}"),
        "layers": layers});
    let manifest = describe("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(dir.join("oci/index.json"), serde_json::json!({"manifests": [manifest]}).to_string()).unwrap();
    store.import(&dir.join("oci"), Some("artifact:1"))
}

#[test]
fn layers_of_a_wasm_artifact_that_are_not_served_are_refused_by_name() {
    let (dir, store) = store();
    let wasm = "application/vnd.wasm.content.layer.v1+wasm";
    for (media_types, says) in [
        (
            &[wasm, "application/vnd.wasm.content.layer.v1+data"][..],
            "of type application/vnd.wasm.content.layer.v1+data, which is not served",
        ),
        (
            &["application/vnd.wasm.content.bundle.v1.tar+gzip", wasm],
            "bundle.v1.tar+gzip, which is not served",
        ),
        (&[wasm, wasm], "exactly one layer of type application/wasm, this one has 2"),
    ] {
        let error = import_artifact(dir.path(), &store, media_types).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    import_artifact(dir.path(), &store, &[wasm]).unwrap();
}

#[test]
fn nothing_compiled_is_left_of_a_removed_image() {
    let (dir, store) = store();
    let wasm = "application/wasm";
    let image = import_artifact(dir.path(), &store, &[wasm]).unwrap().remove(0);
    store.tag("artifact:1", "artifact:2").unwrap();
    let Content::Wasm { digest, .. } = &image.content else { panic!("{:?}", image.content) };
    let compiled = dir.path().join("wasm");
    fs::create_dir_all(&compiled).unwrap();
    let hex = digest.trim_start_matches("sha256:");
    let of_others = format!("{}-0.cwasm", "0".repeat(64));
    for name in [format!("{hex}-0.cwasm"), format!("{hex}-0.json"), of_others.clone()] {
        fs::write(compiled.join(name), "").unwrap();
    }
    let count = || fs::read_dir(&compiled).unwrap().count();
    store.remove("artifact:1").unwrap();
    assert_eq!(count(), 3, "artifact:2 runs it too");
    store.remove("artifact:2").unwrap();
    assert!(count() == 1 && compiled.join(of_others).exists());
}

#[test]
fn a_packed_wasm_file_keeps_what_it_is_given() {
    let (dir, store) = store();
    let file = dir.path().join("guest");
    fs::write(&file, b"\0asm\x0d\0\x01\0").unwrap();
    let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let options = PackOptions {
        cmd: list(&["serve", "--fast"]),
        env: list(&["A=b"]),
        working_dir: "/data".to_owned(),
        user: "1000:1000".to_owned(),
        ..PackOptions::default()
    };
    let image = store.pack(&file, "guest:1", &options).unwrap();
    let Content::Wasm { module, .. } = &image.content else { panic!("{:?}", image.content) };
    assert_eq!(fs::read(module).unwrap(), fs::read(&file).unwrap());
    let config = &image.config;
    assert_eq!((config.entrypoint.as_slice(), config.cmd.len()), (list(&["/guest.wasm"]).as_slice(), 2));
    assert_eq!(config.env, [("A".to_owned(), "b".to_owned())]);
    assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/data", "1000:1000"));
    let refused = |options: PackOptions| store.pack(&file, "guest:2", &options).unwrap_err().to_string();
    let entrypoint = PackOptions { entrypoint: list(&["/bin/sh"]), ..PackOptions::default() };
    assert!(refused(entrypoint).contains("is the file itself"));
    let user = PackOptions { user: "app".to_owned(), ..PackOptions::default() };
    assert!(refused(user).contains("give numbers"));
    let volume = PackOptions { volumes: list(&["/data"]), ..PackOptions::default() };
    assert!(refused(volume).contains("no directories"));
}

#[test]
fn what_killed_transfers_left_is_swept() {
    let (dir, store) = store();
    let tmp = dir.path().join("images/tmp");
    fs::create_dir_all(tmp.join("layer/root")).unwrap();
    fs::write(tmp.join("blob"), "half").unwrap();
    symlink(dir.path(), tmp.join("link")).unwrap();
    store.sweep_temporary().unwrap();
    assert!(fs::read_dir(&tmp).unwrap().next().is_none() && dir.path().is_dir());
}

/// The tar of a layer with one file.
fn layer_with(name: &str, text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, tar::EntryType::Regular, name, None, text);
    tar.into_inner().unwrap()
}

/// The files and directories of blobs and layers.
fn kept(dir: &Path) -> usize {
    let count = |part: &str| fs::read_dir(dir.join("images").join(part)).unwrap().count();
    count("blobs/sha256") + count("layers")
}

#[test]
fn the_name_of_anothers_layer_is_not_enough_to_have_it() {
    let (dir, store) = store();
    let layer = layer_with("secret", "of somebody else");
    import_layers(dir.path(), &store, "private:1", std::slice::from_ref(&layer)).unwrap();
    let mine = [layer_with("mine", "")];
    let stolen = import_claiming(dir.path(), &store, "stolen:1", &mine, &[diff_id(&layer)]);
    assert!(stolen.unwrap_err().to_string().contains("unpacks to"), "it has the other's layer");
    assert_eq!(store.get("stolen:1"), None);
    import_layers(dir.path(), &store, "honest:1", &[layer]).unwrap();
}

#[test]
fn what_no_image_needs_goes_and_what_is_used_stays() {
    use std::time::{Duration, Instant};
    let (dir, store) = store();
    let (base, top) = (layer_with("base", "1"), layer_with("top", "2"));
    let good = import_layers(dir.path(), &store, "good:1", std::slice::from_ref(&base)).unwrap().remove(0);
    let honest = kept(dir.path());
    let wrong = [diff_id(&top), diff_id(b"another")];
    import_claiming(dir.path(), &store, "bad:1", &[top.clone(), base.clone()], &wrong).unwrap_err();
    assert!(kept(dir.path()) > honest, "the first layer is unpacked");
    let (begin, hour) = (Instant::now(), Duration::from_secs(3600));
    let mut collector = collect::Collector::new(store.clone());
    let mut nobody = collect::InUse::default();
    assert!(collector.collect(&nobody, hour, begin).unwrap());
    assert!(kept(dir.path()) > honest, "the next try may want it");
    let lock = store.layout.lock_shared().unwrap();
    assert!(!collector.collect(&nobody, hour, begin + hour).unwrap(), "somebody is at work");
    drop(lock);
    assert!(collector.collect(&nobody, hour, begin + hour).unwrap());
    assert_eq!(kept(dir.path()), honest);
    assert!(layer_of(&good, 0).is_dir());

    // The name is by now another image's, and a container still has the old one.
    import_layers(dir.path(), &store, "good:1", &[top]).unwrap();
    nobody.manifests.insert(good.digest.clone());
    let used = nobody;
    for hours in 2..5 {
        collector.collect(&used, hour, begin + hour * hours).unwrap();
    }
    assert!(layer_of(&good, 0).is_dir(), "a container has it");
    let unused = collect::InUse::default();
    collector.collect(&unused, hour, begin + hour * 5).unwrap();
    assert!(layer_of(&good, 0).is_dir());
    collector.collect(&unused, hour, begin + hour * 6).unwrap();
    assert!(!layer_of(&good, 0).exists());
}

#[test]
fn what_an_unusable_image_brought_goes_at_once() {
    use std::time::{Duration, Instant};
    let (dir, store) = store();
    let (base, top) = (layer_with("base", "1"), layer_with("top", "2"));
    import_layers(dir.path(), &store, "good:1", std::slice::from_ref(&base)).unwrap();
    let honest = kept(dir.path());
    let blob = |bytes: &[u8]| store.layout.put_blob(bytes).unwrap();
    let config = blob(format!(r#"{{"rootfs": {{"diff_ids": ["{}", "x"]}}}}"#, diff_id(&top)).as_bytes());
    let (base, top) = (blob(&base), blob(&top));
    let of = |digest: &str| serde_json::json!({"mediaType": "m", "digest": digest, "size": 1});
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": of(&config), "layers": [of(&base), of(&top)]});
    let manifest = blob(manifest.to_string().as_bytes());
    let failed = |error| store.pull_failed("r.example/bad:1", &manifest, &error);
    failed(ImageError::Registry { reference: String::new(), message: String::new() });
    assert!(!store.is_spoiled(), "the next try goes on from there");
    failed(ImageError::Malformed(String::new()));
    let mut collector = collect::Collector::new(store.clone());
    let in_use = collect::InUse::default();
    collector.collect(&in_use, Duration::from_secs(3600), Instant::now()).unwrap();
    assert_eq!((kept(dir.path()), store.is_spoiled()), (honest, false));
}

#[test]
fn images_that_nobody_uses_make_room() {
    use std::time::{Duration, Instant, SystemTime};
    let (dir, store) = store();
    for name in ["long:1", "used:1", "late:1", "own:1", "new:1"] {
        let layer = layer_with("f", name);
        let image = import_layers(dir.path(), &store, name, &[layer]).unwrap().remove(0);
        store.layout.record_image(&Image { pulled: name != "own:1", ..image }).unwrap();
        if name != "new:1" {
            let record = dir.path().join("images/refs").join(layout::file_name(&normalize(name).unwrap()));
            let record = fs::File::options().write(true).open(record).unwrap();
            record.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
        }
    }
    let in_use = |names: &[&str]| collect::InUse {
        names: names.iter().map(|name| normalize(name).unwrap()).collect(),
        ..collect::InUse::default()
    };
    let names = || store.list().iter().map(|i| i.repository().to_owned()).collect::<Vec<_>>().join(" ");
    let now = Instant::now();
    let mut collector = collect::Collector::new(store.clone());
    collector.note(&in_use(&["late:1", "used:1"]), now);
    let used = in_use(&["used:1"]);
    let full = |names: &str| {
        names.split(' ').map(|n| format!("docker.io/library/{n}")).collect::<Vec<_>>().join(" ")
    };
    let at_work = store.layout.lock_shared().unwrap();
    assert!(!collector.evict(&used, &|| false, now).unwrap(), "somebody is at work");
    drop(at_work);
    assert!(collector.evict(&used, &|| true, now).unwrap());
    assert_eq!(names(), full("late long new own used"), "there is room");
    let once = std::cell::Cell::new(false);
    assert!(collector.evict(&used, &|| once.replace(true), now).unwrap());
    assert_eq!(names(), full("late new own used"), "unused for longest");
    assert!(collector.evict(&used, &|| false, now).unwrap());
    assert_eq!(names(), full("new own used"), "made here, just pulled, used");
    assert_eq!(store.sizes().len(), 3);
}
