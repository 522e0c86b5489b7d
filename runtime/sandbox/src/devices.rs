//! Which device nodes a container that is not privileged may make and open.
//!
//! Version 1 cgroups have files for it. Version 2 asks programs (`BPF_PROG_TYPE_CGROUP_DEVICE`); a
//! kernel without `CONFIG_CGROUP_BPF` cannot ask, and there such a container does not start.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::cgroup::{Cgroup, Version};

/// Devices that are any container's: null, zero, full, random, urandom, tty, ptmx.
const DEVICES: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

/// Terminals, of which a container sees its own.
const TERMINALS: u32 = 136;

/// Every device node in `dir`, for a privileged container, where the path is `free`.
pub fn of_host(dir: &Path, free: &dyn Fn(&Path) -> bool) -> Vec<Value> {
    let mut devices = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if !free(&path) {
            continue;
        }
        let kind = metadata.file_type();
        // These are file systems of the container's own.
        if kind.is_dir() && !["pts", "shm", "mqueue", "fd"].iter().any(|own| path == dir.join(own)) {
            devices.extend(of_host(&path, free));
        } else if (kind.is_char_device() || kind.is_block_device()) && path != Path::new("/dev/console") {
            let number = metadata.rdev();
            devices.push(json!({
                "path": path,
                "type": if kind.is_char_device() { "c" } else { "b" },
                "major": libc::major(number),
                "minor": libc::minor(number),
                "fileMode": metadata.mode() & 0o777,
                "uid": metadata.uid(),
                "gid": metadata.gid(),
            }));
        }
    }
    devices
}

/// Holds every process of a cgroup, and of those below, to these devices.
pub fn restrict(cgroup: &Cgroup) -> io::Result<()> {
    let restricted = match cgroup.version() {
        Version::V1 => write_lists(&cgroup.directory("devices")),
        Version::V2 => attach_program(&cgroup.directory("")),
    };
    restricted.map_err(|error| io::Error::new(error.kind(), format!("restrict devices: {error}")))
}

/// As in <https://docs.kernel.org/admin-guide/cgroup-v1/devices.html>.
fn write_lists(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("devices.deny"), "a")?;
    let devices = DEVICES.iter().map(|(major, minor)| format!("c {major}:{minor} rwm"));
    let terminals = format!("c {TERMINALS}:* rwm");
    devices.chain([terminals]).try_for_each(|rule| fs::write(cgroup.join("devices.allow"), rule))
}

fn attach_program(cgroup: &Path) -> io::Result<()> {
    attach(&load(&program())?, &File::open(cgroup)?)
}

/// One instruction, as in <https://docs.kernel.org/bpf/standardization/instruction-set.html>.
#[repr(C)]
struct Instruction {
    opcode: u8,
    /// The source register in the upper half, the destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Answers 1 if a device may be made or opened, and 0 if not. The kernel gives it, in register 1,
/// three words: the kind of device in the lower half of the first, its major, its minor number.
fn program() -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x57;
    const MOVE: u8 = 0xb7;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const JUMP_UNLESS_EQUAL: u8 = 0x55;
    const SHIFT_LEFT: u8 = 0x67;
    const OR_REGISTER: u8 = 0x4f;
    const EXIT: u8 = 0x95;
    const CHARACTER_DEVICE: i32 = 2;
    /// A minor number has 20 bits, a major number 12.
    const MINOR_BITS: i32 = 20;

    let instruction =
        |opcode, registers, offset, immediate| Instruction { opcode, registers, offset, immediate };
    // Backwards from the end, so that each jump knows how far it is.
    let mut reversed = vec![
        instruction(EXIT, 0, 0, 0),
        instruction(MOVE, 0, 0, 1),
        instruction(EXIT, 0, 0, 0),
        instruction(MOVE, 0, 0, 0),
    ];
    // Past everything so far except the two that allow, or deny.
    let allow = |reversed: &Vec<Instruction>| reversed.len() as i16 - 2;
    let deny = |reversed: &Vec<Instruction>| reversed.len() as i16 - 4;
    for (major, minor) in DEVICES {
        let number = (major << MINOR_BITS | minor) as i32;
        reversed.push(instruction(JUMP_IF_EQUAL, 0x03, allow(&reversed), number));
    }
    reversed.push(instruction(OR_REGISTER, 0x43, 0, 0));
    reversed.push(instruction(SHIFT_LEFT, 0x03, 0, MINOR_BITS));
    reversed.push(instruction(JUMP_IF_EQUAL, 0x03, allow(&reversed), TERMINALS as i32));
    reversed.push(instruction(JUMP_UNLESS_EQUAL, 0x02, deny(&reversed), CHARACTER_DEVICE));
    reversed.push(instruction(AND, 0x02, 0, 0xffff));
    reversed.push(instruction(LOAD_WORD, 0x14, 8, 0));
    reversed.push(instruction(LOAD_WORD, 0x13, 4, 0));
    reversed.push(instruction(LOAD_WORD, 0x12, 0, 0));
    reversed.reverse();
    reversed
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest for zero.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: RawFd,
    program: RawFd,
    kind: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the kernel reads what is told of here, all of which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Beside what others have attached: all must allow.
fn attach(program: &OwnedFd, cgroup: &File) -> io::Result<()> {
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attributes = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the kernel reads what is told of here.
    match unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<Attach>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// As root, with version 2 mounted somewhere, if only beside version 1.
    #[test]
    fn the_program_lets_only_these_devices_pass() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| line.contains(" cgroup2 ").then(|| line.split(' ').nth(1)));
        let Some(root) = root.flatten().filter(|_| nix::unistd::geteuid().is_root()) else {
            return eprintln!("skipped: needs root and a cgroup hierarchy of version 2");
        };
        let cgroup = Path::new(root).join(format!("proa-test-devices-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let restricted = attach_program(&cgroup);
        let script = "echo $$ > $0/cgroup.procs; cd $1
            for f in null:c:1:3 zero:c:1:5 tty:c:5:0 full:c:1:7 random:c:1:8 urandom:c:1:9 ptmx:c:5:2 \
                pts:c:136:7 mem:c:1:1 kmsg:c:1:11 console:c:5:1 tap:c:10:200 null2:b:1:3 loop:b:7:0 \
                big:c:4097:3; do
                IFS=:; set -- $f; mknod $1 $2 $3 $4 2>/dev/null && echo -n \"$1 \"
            done
            echo x > null && head -c 1 zero | od -An -tx1; cat /dev/kmsg";
        let scratch = tempfile::tempdir().unwrap();
        let out = Command::new("sh").args(["-c", script]).arg(&cgroup).arg(scratch.path()).output().unwrap();
        fs::remove_dir(&cgroup).unwrap();
        restricted.unwrap();
        let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(said, "null zero tty full random urandom ptmx pts  00\n", "{complained}");
        assert!(complained.contains("Operation not permitted"), "{complained}");
    }
}
