//! Safe wrappers over what Linux offers and `nix` does not: the only crate with unsafe code.
//!
//! Every public function is safe for every input; what the kernel refuses comes back as an error. Each unsafe block is one operation
//! with the reason why it is sound.

mod bpf;
pub mod cgroup;
pub mod fd;
pub mod init;
pub mod interface;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod process;
pub mod seccomp;
pub mod syscalls;
