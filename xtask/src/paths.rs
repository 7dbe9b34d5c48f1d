//! Where setup keeps things and where cargo builds.

use std::env;
use std::path::{Path, PathBuf};

/// The static busybox of Debian's `busybox-static`.
pub const BUSYBOX: &str = "/bin/busybox";

/// Debian's Python: its packages are made for it, whatever else `PATH` holds.
pub const PYTHON: &str = "/usr/bin/python3";

/// Where a Debian package puts Python modules.
pub const PYTHON_MODULES: &str = "usr/lib/python3/dist-packages";

/// `$XDG_CACHE_HOME/netagent`, else `$HOME/.cache/netagent`.
pub fn cache_dir() -> PathBuf {
    cache_home().join("netagent")
}

/// The directory that [`cache_dir`] lies in.
pub fn cache_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map_or_else(home, PathBuf::from)
}

/// What setup found and `netagent/build.rs` uses: lines of `KEY=value`.
pub fn toolchain_record() -> PathBuf {
    cache_dir().join("toolchain.env")
}

/// The bpf-linker that setup builds.
pub fn bpf_linker() -> PathBuf {
    cache_dir().join("bpf-linker/bin/bpf-linker")
}

/// The guest's kernel, its modules and its configuration.
pub fn guest_dir() -> PathBuf {
    cache_dir().join("guest")
}

/// The guest's kernel.
pub fn guest_kernel() -> PathBuf {
    guest_dir().join("vmlinuz")
}

/// The guest kernel's modules, flat.
pub fn guest_modules() -> PathBuf {
    guest_dir().join("modules")
}

/// The tree of Debian's cloud-init and the Python modules that it imports, unpacked.
pub fn cloud_init() -> PathBuf {
    cache_dir().join("cloud-init")
}

/// The tree of Debian's klibc, unpacked: it holds the `ipconfig` of an initramfs.
pub fn klibc() -> PathBuf {
    cache_dir().join("klibc")
}

/// The top of the source tree.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo puts what it builds for `profile`, which is `debug` or `release`.
pub fn built(profile: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(target).join(profile)
}

/// The program's path: on `PATH`, or where Debian keeps what only root has on it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
