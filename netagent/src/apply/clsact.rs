//! Filters of clsact qdiscs: one block that all TAPs share for each direction, and one filter on an uplink.
//!
//! In the messages of tc, ingress of a device is what arrives at the host: a TAP's `from_vm`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};

use netagent_common::names::{FROM_SERVICES, FROM_UPLINK, FROM_VM, TO_VM};
use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use crate::apply::links::{self, LinkError};
use crate::apply::tap::UnfinishedTap;
use crate::netlink::{Netlink, NetlinkError};
use crate::observe::links::xdp_program;
use crate::plan::TapSpec;

/// Priority and handle of our filters: fixed, so that a later agent finds and replaces them.
const FILTER_PRIORITY: u32 = 50;
const FILTER_HANDLE: u32 = 0x6e61;
/// `ETH_P_ALL` in network order: the lower half of `tcm_info`.
const EVERY_PROTOCOL: u32 = 3_u16.to_be() as u32;

/// The blocks that all TAPs share.
const FROM_VM_BLOCK: u32 = 0x6e61_0001;
const TO_VM_BLOCK: u32 = 0x6e61_0002;
/// `TCA_INGRESS_BLOCK` and `TCA_EGRESS_BLOCK`.
const INGRESS_BLOCK: u16 = 13;
const EGRESS_BLOCK: u16 = 14;

/// The device that keeps the blocks alive while there is no TAP.
pub const IDLE_NAME: &str = "netagent-idle";

/// Why filters could not be set, removed or found.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// Netlink refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The idle device cannot be made.
    #[error("make {IDLE_NAME}, which holds the filters of all TAPs")]
    Idle(#[from] LinkError),
    /// Somebody else's device has the name of the idle one.
    #[error("{IDLE_NAME} is not this agent's device: its alias is not '{0}'")]
    ForeignIdle(String),
    /// The device has a clsact qdisc that belongs to blocks of somebody else.
    #[error("the clsact qdisc of device {0} is not ours")]
    ForeignQdisc(u32),
}

/// Programs by file descriptor, for the blocks.
#[derive(Clone, Copy, Debug)]
pub struct BlockPrograms<'a> {
    /// `from_vm`.
    pub from_vm: BorrowedFd<'a>,
    /// `to_vm`.
    pub to_vm: BorrowedFd<'a>,
}

/// Sets filters through netlink.
#[derive(Debug)]
pub struct Clsact {
    netlink: Netlink,
    idle_alias: String,
}

impl Clsact {
    /// `idle_alias` marks the idle device as this agent's.
    #[must_use]
    pub fn new(netlink: Netlink, idle_alias: String) -> Self {
        Self {
            netlink,
            idle_alias,
        }
    }

    /// Binds a TAP to the blocks: it is filtered from this moment.
    ///
    /// # Errors
    /// Where netlink refuses, or the device has filters of somebody else.
    pub async fn bind_tap(&self, ifindex: u32) -> Result<(), ClsactError> {
        let blocks = [(INGRESS_BLOCK, FROM_VM_BLOCK), (EGRESS_BLOCK, TO_VM_BLOCK)];
        let made = self.add_qdisc(ifindex, &blocks).await?;
        if made || self.blocks_of(ifindex).await? == Some(Blocks::Ours) {
            return Ok(());
        }
        Err(ClsactError::ForeignQdisc(ifindex))
    }

    /// Puts `from_uplink` on an uplink, beside what others have there.
    ///
    /// # Errors
    /// Where netlink refuses.
    pub async fn attach_device(
        &self,
        ifindex: u32,
        program: BorrowedFd<'_>,
        name: &'static str,
    ) -> Result<(), ClsactError> {
        self.add_qdisc(ifindex, &[]).await?;
        Ok(self
            .put_filter(Place::Device(ifindex), program, name)
            .await?)
    }

    /// Replaces the programs of devices that are no TAPs wherever they are, without a packet lost.
    ///
    /// # Errors
    /// Where netlink refuses.
    pub async fn renew_devices(
        &self,
        programs: &[(&'static str, BorrowedFd<'_>)],
    ) -> Result<(), ClsactError> {
        for (ifindex, blocks) in self.qdiscs().await? {
            let place = Place::Device(ifindex);
            for (name, program) in programs {
                if blocks == Blocks::None && self.has_filter(place, name).await? {
                    self.put_filter(place, *program, name).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes our filters off a device.
    ///
    /// # Errors
    /// Where netlink refuses; a device that is gone has none.
    pub async fn detach(&self, ifindex: u32) -> Result<(), ClsactError> {
        match self.blocks_of(ifindex).await? {
            Some(Blocks::Ours) => {
                let message = qdisc_message(ifindex);
                self.remove(RouteNetlinkMessage::DelQueueDiscipline(message))
                    .await?;
            }
            Some(Blocks::None) if self.has_own_filter(ifindex).await? => {
                // The qdisc stays: others may have put filters there since.
                let message = filter_message(Place::Device(ifindex));
                self.remove(RouteNetlinkMessage::DelTrafficFilter(message))
                    .await?;
            }
            Some(Blocks::None | Blocks::Foreign) | None => {}
        }
        Ok(())
    }

    /// Whether a device that is no TAP has its program.
    async fn has_own_filter(&self, ifindex: u32) -> Result<bool, ClsactError> {
        let place = Place::Device(ifindex);
        Ok(self.has_filter(place, FROM_UPLINK).await?
            || self.has_filter(place, FROM_SERVICES).await?)
    }

    /// Devices that our filters see.
    ///
    /// # Errors
    /// Where netlink refuses.
    pub async fn attached(&self) -> Result<BTreeSet<u32>, ClsactError> {
        let mut devices = BTreeSet::new();
        let filled = self
            .has_filter(Place::Block(FROM_VM_BLOCK), FROM_VM)
            .await?
            && self.has_filter(Place::Block(TO_VM_BLOCK), TO_VM).await?;
        for (ifindex, blocks) in self.qdiscs().await? {
            let found = match blocks {
                Blocks::Ours => filled,
                Blocks::None => self.has_own_filter(ifindex).await?,
                Blocks::Foreign => false,
            };
            if found {
                devices.insert(ifindex);
            }
        }
        Ok(devices)
    }

    /// Makes the idle device and puts the programs into its blocks. A filter that is there is replaced
    /// without a packet lost (measured), and so are the programs of all TAPs at once.
    ///
    /// # Errors
    /// Where netlink refuses, or the idle device's name is taken.
    pub async fn fill_blocks(&self, programs: BlockPrograms<'_>) -> Result<(), ClsactError> {
        let idle = self.make_idle().await?;
        self.bind_tap(idle).await?;
        self.put_filter(Place::Block(FROM_VM_BLOCK), programs.from_vm, FROM_VM)
            .await?;
        Ok(self
            .put_filter(Place::Block(TO_VM_BLOCK), programs.to_vm, TO_VM)
            .await?)
    }

    /// The idle device, made where it is not there: its index, and the XDP program on it.
    ///
    /// # Errors
    /// Where netlink refuses, or the idle device's name is taken.
    pub async fn idle_device(&self) -> Result<(u32, Option<u32>), ClsactError> {
        let idle = self.make_idle().await?;
        let link = links::named(&self.netlink, IDLE_NAME).await?;
        let program = link.and_then(|link| xdp_program(&link.attributes));
        Ok((idle, program))
    }

    async fn make_idle(&self) -> Result<u32, ClsactError> {
        if let Some(link) = links::named(&self.netlink, IDLE_NAME).await? {
            if links::alias(&link) == Some(&self.idle_alias) {
                return Ok(link.header.index);
            }
            return Err(ClsactError::ForeignIdle(self.idle_alias.clone()));
        }
        let mut tap = TapSpec {
            name: IDLE_NAME.to_owned(),
            // The kernel chooses: no traffic runs here, so no slot belongs to it.
            ifindex: 0,
            owner: None,
            group: None,
            queues: 1,
            mtu: 1_500,
            v6: false,
            lent: false,
            alias: self.idle_alias.clone(),
        };
        let unfinished = UnfinishedTap::create(&tap).map_err(LinkError::from)?;
        if let Some(link) = links::named(&self.netlink, IDLE_NAME).await? {
            tap.ifindex = link.header.index;
        }
        links::configure_tap(&self.netlink, &tap).await?;
        unfinished.persist().map_err(LinkError::from)?;
        Ok(tap.ifindex)
    }

    /// Makes a clsact qdisc; says whether there was none before.
    async fn add_qdisc(&self, ifindex: u32, blocks: &[(u16, u32)]) -> Result<bool, NetlinkError> {
        let mut message = qdisc_message(ifindex);
        for (attribute, block) in blocks {
            let block = DefaultNla::new(*attribute, block.to_ne_bytes().to_vec());
            message.attributes.push(TcAttribute::Other(block));
        }
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        match self
            .netlink
            .change(request, NLM_F_CREATE | NLM_F_EXCL)
            .await
        {
            Err(error) if error.is(Errno::EEXIST) => Ok(false),
            result => result.map(|()| true),
        }
    }

    async fn put_filter(
        &self,
        place: Place,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let mut message = filter_message(place);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(
                program.as_raw_fd().cast_unsigned(),
            )),
            TcOption::Bpf(TcFilterBpfOption::ProgName(filter_name(name))),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        self.netlink
            .change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
            .await
    }

    /// Removes something; what is gone already is removed.
    async fn remove(&self, request: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        match self.netlink.change(request, 0).await {
            Err(error) if error.is(Errno::ENODEV) || error.is(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    async fn has_filter(&self, place: Place, program: &str) -> Result<bool, NetlinkError> {
        let question = TcMessage::from_parts(place.header(), Vec::new());
        let answers = match self
            .netlink
            .dump(RouteNetlinkMessage::GetTrafficFilter(question))
            .await
        {
            Err(error) if is_absent(&error) => return Ok(false),
            answers => answers?,
        };
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName(filter_name(program)));
        Ok(answers.iter().any(|answer| {
            let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else {
                return false;
            };
            u32::from(filter.header.handle) == FILTER_HANDLE
                && filter.header.info >> 16 == FILTER_PRIORITY
                && filter.attributes.iter().any(|attribute| {
                    matches!(attribute, TcAttribute::Options(options) if options.contains(&name))
                })
        }))
    }

    /// Whose blocks the clsact qdisc of this device is bound to; `None` where it has none.
    async fn blocks_of(&self, ifindex: u32) -> Result<Option<Blocks>, NetlinkError> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(qdisc_message(ifindex));
        match self.netlink.get(question).await {
            Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(qdisc))) => {
                Ok(Some(Blocks::of(&qdisc)))
            }
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The clsact qdiscs of all devices.
    async fn qdiscs(&self) -> Result<BTreeMap<u32, Blocks>, NetlinkError> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let mut qdiscs = BTreeMap::new();
        for answer in self.netlink.dump(question).await? {
            let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else {
                continue;
            };
            if qdisc
                .attributes
                .contains(&TcAttribute::Kind("clsact".to_owned()))
            {
                qdiscs.insert(qdisc.header.index.cast_unsigned(), Blocks::of(&qdisc));
            }
        }
        Ok(qdiscs)
    }
}

/// Where a filter is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In a shared block.
    Block(u32),
    /// Where packets arrive on the device with this index.
    Device(u32),
}

impl Place {
    fn header(self) -> TcHeader {
        let mut header = TcHeader::default();
        match self {
            Self::Block(block) => {
                header.index = TcHeader::TCM_IFINDEX_MAGIC_BLOCK.cast_signed();
                header.parent = block.into();
            }
            Self::Device(ifindex) => {
                header.index = ifindex.cast_signed();
                header.parent = TcHandle {
                    major: TcHandle::CLSACT.major,
                    minor: TcHandle::MIN_INGRESS,
                };
            }
        }
        header
    }
}

/// Whose blocks a clsact qdisc is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocks {
    None,
    Ours,
    Foreign,
}

impl Blocks {
    fn of(qdisc: &TcMessage) -> Self {
        let block = |wanted: u16| {
            qdisc.attributes.iter().find_map(|attribute| {
                let TcAttribute::Other(nla) = attribute else {
                    return None;
                };
                if nla.kind() != wanted || nla.value_len() != 4 {
                    return None;
                }
                let mut bytes = [0; 4];
                nla.emit_value(&mut bytes);
                Some(u32::from_ne_bytes(bytes))
            })
        };
        match (block(INGRESS_BLOCK), block(EGRESS_BLOCK)) {
            (None, None) => Self::None,
            (Some(FROM_VM_BLOCK), Some(TO_VM_BLOCK)) => Self::Ours,
            _ => Self::Foreign,
        }
    }
}

/// No such device, qdisc or block.
fn is_absent(error: &NetlinkError) -> bool {
    [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL]
        .iter()
        .any(|errno| error.is(*errno))
}

fn qdisc_message(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter_message(place: Place) -> TcMessage {
    let mut header = place.header();
    header.handle = FILTER_HANDLE.into();
    header.info = FILTER_PRIORITY << 16 | EVERY_PROTOCOL;
    TcMessage::from_parts(header, vec![TcAttribute::Kind("bpf".to_owned())])
}

fn filter_name(program: &str) -> String {
    format!("netagent-{program}")
}
