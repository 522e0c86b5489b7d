//! What an image or a volume must not bring root to do.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proa_sandbox::protocol::{Container, Mount, Payload, Reply, Request, Security, User};

use crate::tests;
use crate::world::{Pod, World};

tests![
    volumes_of_an_image_lead_nowhere_else,
    nothing_lies_over_the_root_or_dev,
    mounts_in_volumes_stay_inside,
    no_code_of_an_image_runs_outside_of_it,
    ids_that_mean_something_else,
];

/// A directory or file of the node, writable.
pub fn mount(source: &Path, target: &str) -> Mount {
    Mount {
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only: false,
        recursive_read_only: false,
    }
}

/// The same container, with one layer more.
fn over(mut container: Container, layer: &Path) -> Container {
    if let Payload::Oci { layers, .. } = &mut container.payload {
        layers.push(layer.display().to_string());
    }
    container
}

async fn refusal(pod: &Pod, container: Container) -> String {
    match pod.ask(Request::Start(Box::new(container))).await {
        Reply::Failed { reason, message } if reason == "CreateContainerError" => message,
        other => panic!("not refused: {other:?}"),
    }
}

async fn volumes_of_an_image_lead_nowhere_else(world: Arc<World>) {
    let pod = world.pod().await;
    let (volume, outside) = (world.path("image-volumes"), world.path("image-volumes-outside"));
    for dir in [&volume, &outside] {
        fs::create_dir_all(dir).expect("a directory");
    }
    // What an earlier container has left in the pod's volume.
    symlink(&outside, volume.join("link")).expect("a link");
    let script = "touch /own/deep/file && echo kept writable; cat /own/motd
        touch /no 2>/dev/null || echo root is read-only
        touch /data/file && echo pod volume; touch /data/link/file; ls /data/inner";
    let mut container = world.shell(&pod, "c-0", script);
    container.mounts = vec![mount(&volume, "/data")];
    let Payload::Oci { security, volumes, .. } = &mut container.payload else { unreachable!() };
    security.read_only_root = true;
    *volumes = ["/", "/own", "/own/deep", "/data/link", "/data/inner"].map(str::to_owned).to_vec();
    let layer = world.path("layers/own");
    fs::create_dir_all(layer.join("own")).expect("a layer");
    fs::write(layer.join("own/motd"), "of the image\n").expect("a file");
    let (_, log) = pod.run(over(container, &layer)).await;
    for want in ["kept writable", "of the image", "root is read-only", "pod volume"] {
        assert!(log.contains(want), "{want} not in {log}");
    }
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 0, "{log}");
    assert!(volume.join("file").exists() && !volume.join("inner").exists(), "{log}");
    pod.stop().await;
}

async fn nothing_lies_over_the_root_or_dev(world: Arc<World>) {
    let pod = world.pod().await;
    let (volume, outside) = (world.path("over-root"), world.path("over-root-outside"));
    for dir in [&volume, &outside] {
        fs::create_dir_all(dir).expect("a directory");
    }
    // As the node resolves it, were the volume the root.
    symlink(&outside, volume.join("dev")).expect("a link");
    symlink("/", volume.join("up")).expect("a link");
    symlink("/dev", volume.join("devices")).expect("a link");
    fs::write(outside.join("ptmx"), "the node's").expect("a file");
    let layer = world.path("layers/links");
    fs::create_dir_all(&layer).expect("a layer");
    for (link, to) in [("root", "/"), ("devices", "dev"), ("processes", "/proc")] {
        symlink(to, layer.join(link)).expect("a link");
    }
    let root = "mounting into / is prohibited";
    let dev = "/dev is the container's own";
    for (number, (targets, why)) in [
        (&["/"][..], root),
        (&["/."], root),
        (&["/x/.."], root),
        (&["/root"], root),
        (&["/data", "/data/up"], root),
        (&["/dev"], dev),
        (&["/root/dev"], dev),
        (&["/devices"], dev),
        (&["/data", "/data/devices"], dev),
        (&["/dev/in", "/dev/in/up"], root),
        (&["/processes"], "inside /proc"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut container = over(world.shell(&pod, &format!("c-{number}"), "true"), &layer);
        container.mounts = targets.iter().map(|target| mount(&volume, target)).collect();
        let message = refusal(&pod, container).await;
        assert!(message.contains(why), "{targets:?}: {message}");
    }
    assert_eq!(fs::read_to_string(outside.join("ptmx")).expect("a file"), "the node's");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
    // What is refused takes nothing with it.
    assert_eq!(fs::read_dir(&volume).expect("a directory").count(), 3);
    assert!(pod.states().await.is_empty() && !pod.dir.join("containers/c-0").exists());
    pod.stop().await;
}

/// A privileged container's devices are made where it has them, and never in what its pod mounts there.
async fn mounts_in_volumes_stay_inside(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("in-volume");
    fs::create_dir_all(&volume).expect("a directory");
    // In the container it has a directory of this name too.
    symlink("/tmp", volume.join("link")).expect("a link");
    let inner = world.path("in-volume-file");
    fs::write(&inner, "mounted\n").expect("a file");
    let name = format!("proa-{}", std::process::id());
    let devices = fs::read_dir("/dev").expect("devices").flatten().map(|entry| entry.file_name());
    let other = devices.filter_map(|name| name.into_string().ok()).find(|name| {
        let path = Path::new("/dev").join(name);
        let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
        !known.contains(&name.as_str())
            && path.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device())
    });
    let other = format!("/dev/{}", other.unwrap_or_else(|| "other".to_owned()));
    let script = format!("cat /tmp/{name}; ls /dev/shm/here; test -c /dev/null && echo device; cat {other}");
    let mut container = world.shell(&pod, "c-0", &script);
    container.mounts = vec![
        mount(&volume, "/data"),
        mount(&inner, &format!("/data/link/{name}")),
        mount(&volume, "/dev/shm/here"),
        mount(&inner, &other),
    ];
    let Payload::Oci { security, .. } = &mut container.payload else { unreachable!() };
    **security = Security { privileged: true, ..Security::default() };
    let (exit, log) = pod.run(container).await;
    for (want, times) in [("mounted", 2), ("link", 1), ("device", 1)] {
        assert_eq!(log.matches(want).count(), times, "{want} in {log} ({exit:?})");
    }
    assert!(!Path::new("/tmp").join(name).exists());
    pod.stop().await;
}

/// The C library loads what an image's `nsswitch.conf` names when somebody asks it for a user.
async fn no_code_of_an_image_runs_outside_of_it(world: Arc<World>) {
    let pod = world.pod().await;
    let layer = world.path("layers/names");
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let source = world.path("names.c");
    let text = "#include <fcntl.h>\n__attribute__((constructor)) static void loaded(void) \
        { open(\"/loaded\", O_CREAT | O_WRONLY, 0644); }\n";
    fs::write(&source, text).expect("a source");
    for place in
        ["lib", "lib64", "usr/lib", "usr/lib64", &format!("lib/{triple}"), &format!("usr/lib/{triple}")]
    {
        let dir = layer.join(place);
        fs::create_dir_all(&dir).expect("a directory");
        let library = dir.join("libnss_evil.so.2");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(built.expect("a C compiler").success());
    }
    fs::create_dir_all(layer.join("etc")).expect("a directory");
    fs::write(layer.join("etc/nsswitch.conf"), "passwd: evil\ngroup: evil\nhosts: evil\n").expect("a file");
    for (number, home) in [None, Some(""), Some("/work")].into_iter().enumerate() {
        let id = format!("c-{number}");
        let mut container = over(world.shell(&pod, &id, "echo at $HOME; sleep 1000"), &layer);
        container.env = home.map(|home| ("HOME".to_owned(), home.to_owned())).into_iter().collect();
        pod.start(container).await;
        let args = ["sh", "-c", "echo at $HOME"].map(str::to_owned).to_vec();
        let answer = pod.ask(Request::Exec { id: id.clone(), args, timeout_ms: 10_000 }).await;
        let want = format!("at {}\n", home.filter(|home| !home.is_empty()).unwrap_or("/"));
        assert!(matches!(&answer, Reply::Executed { exit_code: 0, output } if *output == want), "{answer:?}");
        pod.said(&id, want.trim()).await;
        let upper = pod.dir.join("containers").join(&id).join("upper");
        assert!(upper.is_dir() && !upper.join("loaded").exists(), "{id}");
    }
    pod.stop().await;
}

async fn ids_that_mean_something_else(world: Arc<World>) {
    let pod = world.pod().await;
    let security = |uid, gid, groups: &[u32]| {
        Box::new(Security { uid, gid, additional_gids: groups.to_vec(), ..Security::default() })
    };
    let own = [security(u32::MAX, 1, &[]), security(1, u32::MAX, &[]), security(1, 1, &[1 << 31])];
    for (number, wanted) in own.into_iter().enumerate() {
        let mut container = world.shell(&pod, &format!("c-{number}"), "id");
        let Payload::Oci { security, .. } = &mut container.payload else { unreachable!() };
        *security = wanted;
        assert!(refusal(&pod, container).await.contains("is no user or group id"));
    }
    let mut container = world.wasm(&pod, "w-0", &world.command, 0, &[]);
    let Payload::Wasm { user, .. } = &mut container.payload else { unreachable!() };
    *user = Some(User { uid: u32::MAX, gid: 1, groups: Vec::new() });
    assert_eq!(refusal(&pod, container).await, "4294967295 is no user or group id");
    pod.stop().await;
}
