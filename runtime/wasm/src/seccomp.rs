//! The system calls that this process may make once a guest is about to run: those that wasmtime,
//! the async runtime, sockets and WASI's files lead to, and no others.
//!
//! What is not in the list fails as if the kernel did not have it (ENOSYS), so that C libraries fall
//! back to what is. No program is started, no process but threads made, no namespace, mount, module,
//! key or trace touched, and no socket made but for TCP and UDP.

use std::collections::BTreeMap;

use anyhow::Context;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Allowed whatever their arguments are.
const ALLOWED: &[c_long] = &[
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals, to this process only: `kill` is not among them.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // Time, chance and facts.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_lseek,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Files.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_utimensat,
    // Sockets, once they are made.
    libc::SYS_socketpair,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// The older forms of some, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// What `ioctl` may ask: of sockets, whether something is a terminal, and (the last) which pages of
/// this process's own memory have been written to.
#[allow(clippy::unnecessary_cast, reason = "C libraries differ in the type")]
const IOCTLS: [u64; 5] =
    [libc::FIONBIO as u64, libc::FIONREAD as u64, libc::TCGETS as u64, 0x5413, 0xc060_6610];
/// What `prctl` may set: the names of threads and of memory.
const PRCTLS: [u64; 2] = [libc::PR_SET_NAME as u64, 0x5356_4d41];
/// Kinds of sockets: beside TCP and UDP nothing is made by name.
const FAMILIES: [u64; 2] = [libc::AF_INET as u64, libc::AF_INET6 as u64];

/// Installs the filter for this thread, and for the threads that it starts.
pub fn install() -> anyhow::Result<()> {
    let program = program().context("make the filter of system calls")?;
    seccompiler::apply_filter(&program).context("filter system calls")
}

fn program() -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let one_of = |argument, values: &[u64]| -> anyhow::Result<Vec<SeccompRule>> {
        let rules = values.iter().map(|value| Ok(SeccompRule::new(vec![equal(argument, *value)?])?));
        rules.collect()
    };
    rules.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, &PRCTLS)?);
    rules.insert(libc::SYS_socket, one_of(0, &FAMILIES)?);
    // Threads, not processes. The flags of clone3 lie in memory, where a filter cannot look.
    let thread = libc::CLONE_THREAD as u64;
    let threads = SeccompCmpOp::MaskedEq(thread);
    let threads = SeccompCondition::new(0, SeccompCmpArgLen::Dword, threads, thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![threads])?]);
    // Limits are looked at, of this process, and not set.
    let nothing = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![equal(0, 0)?, nothing])?]);
    let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture)?.try_into()?)
}

fn equal(argument: u8, value: u64) -> anyhow::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    /// What the kernel answers to a system call under the filter.
    fn errno(call: c_long, first: c_long, second: c_long) -> i32 {
        // SAFETY: no call that the tests make is given an address, but for null.
        match unsafe { libc::syscall(call, first, second, 0, 0, 0) } {
            -1 => Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }

    #[test]
    fn only_what_is_needed_can_be_done() {
        let filtered = std::thread::spawn(|| {
            // SAFETY: prctl with this option takes numbers only.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
            install().expect("a filter");
            for (name, call, first, second) in [
                ("execve", libc::SYS_execve, 0, 0),
                ("mount", libc::SYS_mount, 0, 0),
                ("ptrace", libc::SYS_ptrace, 0, 0),
                ("setns", libc::SYS_setns, -1, 0),
                ("unshare", libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0),
                ("bpf", libc::SYS_bpf, 0, 0),
                ("keyctl", libc::SYS_keyctl, 0, 0),
                ("init_module", libc::SYS_init_module, 0, 0),
                ("io_uring_setup", libc::SYS_io_uring_setup, 0, 0),
                ("process_vm_readv", libc::SYS_process_vm_readv, 0, 0),
                ("kill", libc::SYS_kill, 0, 0),
                ("a raw socket", libc::SYS_socket, libc::AF_PACKET.into(), 3),
                ("netlink", libc::SYS_socket, libc::AF_NETLINK.into(), 3),
                ("a fork", libc::SYS_clone, libc::SIGCHLD.into(), 0),
                ("a terminal's input", libc::SYS_ioctl, 0, libc::TIOCSTI as c_long),
                ("dumpable", libc::SYS_prctl, libc::PR_SET_DUMPABLE.into(), 1),
            ] {
                assert_eq!(errno(call, first, second), libc::ENOSYS, "{name}");
            }
            // What is needed goes on: files, threads, names, sockets.
            std::fs::metadata("/proc/self").expect("a file");
            std::thread::spawn(|| ()).join().expect("a thread");
            std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
            std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        });
        filtered.join().expect("all as expected");
    }
}
