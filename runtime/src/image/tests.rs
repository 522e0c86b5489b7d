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
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

/// An image of one layer, made of these tar entries, through the `docker save` format.
fn import_layer(
    dir: &Path,
    store: &ImageStore,
    build: impl FnOnce(&mut tar::Builder<Vec<u8>>),
) -> Result<Vec<Image>, ImageError> {
    use sha2::{Digest, Sha256};
    let mut layer = tar::Builder::new(Vec::new());
    build(&mut layer);
    let layer = layer.into_inner().unwrap();
    let diff_id = layout::digest_text(Sha256::new_with_prefix(&layer));
    let saved = dir.join("saved");
    fs::create_dir_all(&saved).unwrap();
    fs::write(saved.join("layer.tar"), layer).unwrap();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    fs::write(saved.join("config.json"), config.to_string()).unwrap();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["t:1"], "Layers": ["layer.tar"]}]);
    fs::write(saved.join("manifest.json"), manifest.to_string()).unwrap();
    store.import(&saved, None)
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
