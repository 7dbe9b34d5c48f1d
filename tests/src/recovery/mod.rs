//! What must hold after any crash: requests that were acknowledged, the database, the kernel and the pins agree,
//! and a stream of a guest never broke.

pub mod book;
pub mod pester;
pub mod shown;

pub mod database;
pub mod kernel;

pub mod check;
pub mod witness;

pub mod disk;
