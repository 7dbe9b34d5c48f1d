//! bpf-linker, built against the libLLVM that the compiler itself loads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::paths;

use crate::setup::compiler::{Compiler, loaded_libllvm};
use crate::shell::{self, say};

const VERSION: &str = "0.13.0";

/// The compiler's own linker, if there is one: ours, or one on `PATH`.
pub(crate) fn find_matching(compiler: &Compiler) -> Option<(Compiler, PathBuf)> {
    let on_path = paths::find_program("bpf-linker");
    let matches =
        |linker: &PathBuf| loaded_libllvm(linker).is_ok_and(|llvm| llvm == compiler.libllvm);
    let linker = [Some(paths::bpf_linker()), on_path]
        .into_iter()
        .flatten()
        .find(matches)?;
    Some((compiler.clone(), linker))
}

/// Builds it. No LLVM development package is needed: the link wants nothing but a directory with a `libLLVM.so`.
pub(crate) fn build(compiler: &Compiler) -> Result<PathBuf> {
    let major = &compiler.llvm_major;
    say(&format!(
        "building bpf-linker {VERSION} for LLVM {major}, which takes a minute or two"
    ));
    let prefix = paths::cache_dir().join(format!("llvm-{major}"));
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib)?;
    let own_name = compiler
        .libllvm
        .file_name()
        .context("libLLVM has no name")?;
    // The linker finds its library here later on, so the directory stays.
    for name in [Path::new("libLLVM.so"), Path::new(own_name)] {
        link(&compiler.libllvm, &lib.join(name))?;
    }
    let root = paths::bpf_linker();
    let root = root
        .ancestors()
        .nth(2)
        .context("the linker's path is too short")?;
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
            "--quiet",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{major}"),
        ])
        .arg("--root")
        .arg(root)
        .current_dir(paths::cache_dir())
        .env("LLVM_PREFIX", &prefix)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run(&mut install)?;
    let linker = paths::bpf_linker();
    let loaded = loaded_libllvm(&linker)?;
    ensure!(
        loaded == compiler.libllvm,
        "{} loads {}, not {}",
        linker.display(),
        loaded.display(),
        compiler.libllvm.display()
    );
    Ok(linker)
}

/// Makes or replaces a symbolic link.
fn link(target: &Path, name: &Path) -> Result<()> {
    if fs::symlink_metadata(name).is_ok() {
        fs::remove_file(name)?;
    }
    symlink(target, name).with_context(|| format!("cannot link {}", name.display()))
}
