//! The resolver: what it adds to a query, how many answers one core gives, whether what an answer leads to is open at once,
//! and the memory that names take.

use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::world::{World, server_v4};

mod asker;
mod connect;
mod latency;
mod many;
mod rate;
mod zone;

/// Index of the name server among the world's servers.
const NAME_SERVER: u8 = 9;

/// Measures all of it.
pub fn run(session: &mut Session) {
    latency::run(session);
    rate::run(session);
    connect::run(session);
    many::run(session);
}

/// An agent that asks the name server of the world.
fn configuration() -> String {
    format!("[dns]\nupstream = [\"{}\"]\n", server_v4(NAME_SERVER))
}

fn agent(world: &World) -> Agent {
    world.agent(&configuration())
}
