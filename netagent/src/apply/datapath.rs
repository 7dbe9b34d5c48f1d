//! Programs and maps of a loaded datapath, and the collection passes that run in it.

use std::error::Error;

use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};

use crate::apply::maps::{Maps, MapsError};
use crate::apply::pins::Pins;
use crate::apply::programs::{self, Programs};
use crate::host::HostOptions;

/// Runs of a collection pass in one round: each removes thousands, so this many end with any table.
const PASSES_MAX: u32 = 256;

/// Why a collection pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The kernel did not run the program.
    #[error("run the collection pass")]
    Run(#[from] ProgramError),
    /// What it did cannot be read.
    #[error("read what the collection pass did")]
    Read(#[from] MapsError),
}

/// What is pinned, opened.
pub struct Datapath {
    /// The programs.
    pub programs: Programs,
    /// The maps.
    pub maps: Maps,
    /// Whether the programs are another build's, were loaded with other constants, or may not be behind every
    /// link: they work, and [`crate::plan::Step::LoadDatapath`] replaces them.
    pub stale: bool,
    /// What [`Maps::object`] should be.
    object: u32,
}

impl Datapath {
    /// Opens what is pinned; `None` unless it is complete and a load would go on with the maps.
    ///
    /// # Errors
    /// Where a pin is there but cannot be opened.
    pub fn open(
        pins: &Pins,
        options: &HostOptions,
    ) -> Result<Option<Self>, Box<dyn Error + Send + Sync>> {
        let Some(programs) = Programs::open(pins)? else {
            return Ok(None);
        };
        if !programs::keeps_maps(pins, options)? {
            return Ok(None);
        }
        let Some(maps) = Maps::open(pins)? else {
            return Ok(None);
        };
        let object = programs::object(options)?;
        let stale = maps.object()? != object;
        Ok(Some(Self {
            programs,
            maps,
            stale,
            object,
        }))
    }

    /// Notes that everything attached runs these programs.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn settle(&mut self) -> Result<(), MapsError> {
        self.maps.set_object(self.object)?;
        self.stale = false;
        Ok(())
    }

    /// Removes flows that timed out or belong to no interface in force, and where asked, reverse entries
    /// without a flow.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn collect(&self, with_orphans: bool) -> Result<bool, CollectError> {
        let saw_all = self.run_pass(&self.programs.collect_flows).await?;
        if with_orphans {
            self.run_pass(&self.programs.collect_orphans).await?;
        }
        Ok(saw_all)
    }

    /// Runs a pass until it has seen its whole table, and says whether it did; between runs, others get their turn.
    async fn run_pass(&self, program: &SchedClassifier) -> Result<bool, CollectError> {
        // The program looks at no packet, but the kernel runs it on one.
        let frame = [0; 64];
        for _ in 0..PASSES_MAX {
            let options = TestRunOptions {
                data_in: Some(&frame),
                ..TestRunOptions::default()
            };
            program.test_run(options)?;
            let collected = self.maps.collected()?;
            if collected.failed > 0 {
                tracing::warn!(
                    entries = collected.failed,
                    "a collection pass could not remove all"
                );
            }
            if collected.more == 0 {
                return Ok(true);
            }
            tokio::task::yield_now().await;
        }
        Ok(false)
    }
}
