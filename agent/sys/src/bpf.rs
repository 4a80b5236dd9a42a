//! As much of `bpf(2)` as the device rules of cgroup v2 need: load a small program, attach it to a cgroup in place of its forerunner.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::fd::owned;

/// One instruction: operation, registers (destination low, source high), offset, constant (`linux/bpf.h`, `struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) constant: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// Programs of one cgroup that are looked at; we attach one.
const MAX_ATTACHED: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `attr` is one of the structures above, and every address in it belongs to something that outlives the call.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a C structure of `size` bytes that lives over the call; the kernel takes what it lacks as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

/// Loads a program that judges the use of devices.
pub(crate) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0".to_bytes_with_nul();
    let count = u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut attr = LoadAttr {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: address(program),
        license: address(license),
        ..LoadAttr::default()
    };
    owned(bpf(PROG_LOAD, &mut attr)?)
}

/// Attaches a program to a cgroup. One that was attached before is replaced in the same step; a cgroup below may add its own and
/// never take ours away.
pub(crate) fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let former = attached(cgroup)?;
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: if former.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
        replace_bpf_fd: former.as_ref().map_or(0, |former| number(former.as_fd())),
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// The first program that is attached to the cgroup itself.
pub(crate) fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut ids = [0_u32; MAX_ATTACHED];
    let place = ids.as_mut_ptr().expose_provenance() as u64;
    let mut query = QueryAttr {
        target_fd: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: place,
        prog_cnt: u32::try_from(ids.len()).unwrap_or(0),
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    // Written by the kernel behind the compiler's back.
    let id = std::hint::black_box(&ids).first().copied().unwrap_or(0);
    if query.prog_cnt == 0 || id == 0 {
        return Ok(None);
    }
    Ok(Some(owned(bpf(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })?)?))
}
