//! Steps that change nothing but maps.

use crate::apply::maps::{Maps, MapsError};
use crate::plan::Step;

impl Maps {
    /// Applies a step as far as it changes maps.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn apply(&mut self, step: &Step) -> Result<(), MapsError> {
        match step {
            Step::SetRoute {
                destination,
                target,
            } => self.set_route(*destination, target),
            Step::RemoveRoute { destination } => self.remove_route(*destination),
            Step::RaiseRouteGeneration => self.raise_route_generation(),
            Step::WritePolicy { policy } => self.write_policy(policy),
            Step::RemovePolicy { id } => self.remove_policy(id),
            Step::WriteInterface { record } => self.write_interface(record),
            Step::Port(step) => self.change_port(step),
            Step::OpenHostPort { port } => self.open_host_port(port),
            Step::CloseHostPort { port } => self.close_host_port(port),
            Step::ClearInterface { slot } => self.clear_interface(*slot),
            Step::LoadDatapath
            | Step::ReservePorts { .. }
            | Step::AttachUplink { .. }
            | Step::ServeGuests
            | Step::LeadSockets
            | Step::DetachUplink { .. }
            | Step::CreateTap { .. }
            | Step::ConfigureTap { .. }
            | Step::AdoptTap { .. }
            | Step::ReturnTap { .. }
            | Step::AttachTap { .. }
            | Step::AttachDropAll { .. }
            | Step::DetachDropAll { .. }
            | Step::AddAddress { .. }
            | Step::AddNeighbour { .. }
            | Step::SetLinkUp { .. }
            | Step::AddGuestRoute { .. }
            | Step::SetLinkDown { .. }
            | Step::DetachTap { .. }
            | Step::RemoveLink { .. }
            | Step::RemoveSeveredPin { .. }
            | Step::CollectFlows
            | Step::UnloadDatapath => Ok(()),
        }
    }
}
