//! What is shown, one after the other.

use anyhow::Result;

use crate::demo::capture::{Capture, Seen};
use crate::demo::guests::Kind;
use crate::demo::show::Show;
use crate::demo::stage::{DENIED, PLAIN, REFUSED, SANDBOXES, SERVICE, SHIELD, Stage};
use crate::shell;

const A: &str = SANDBOXES[0];
const B: &str = SANDBOXES[1];
/// The host's address, under which the world sees everybody.
const HOST: &str = "198.51.100.2";

/// All of it.
pub(crate) fn play(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    introduce(stage, show)?;
    permit(stage, show)?;
    refuse(stage, show)?;
    trace(stage, show)?;
    add_credential(stage, show)?;
    separate(stage, show)?;
    lose_shield(stage, show)?;
    count(stage, show)
}

fn introduce(stage: &Stage<'_>, show: &mut Show) -> Result<()> {
    let kind = match stage.kind {
        Kind::Vm => "VMs under QEMU",
        Kind::Namespace => "namespaces in the place of VMs",
    };
    show.section(&format!("The scene ({kind})"))?;
    let mut lines = Vec::new();
    for name in [A, B] {
        let (address, tap) = (stage.told(name, "ip")?, stage.told(name, "tap_name")?);
        lines.push(format!(
            "{name}  {address:<12} on {tap}, relay: shield-front"
        ));
    }
    let (address, tap) = (stage.told(SHIELD, "ip")?, stage.told(SHIELD, "tap_name")?);
    lines.push(format!(
        "shield     {address:<12} on {tap}, forwards by its own nft rules"
    ));
    lines.push(format!(
        "the host   {HOST:<12} on its uplink; ip_forward is 0, no rule of nft"
    ));
    let [service, _] = SERVICE;
    lines.push(format!(
        "the world  {service:<12} is the service; {REFUSED} and {DENIED} are others"
    ));
    show.lines(&lines.join("\n"))
}

/// Shows that a sandbox fetches a page, or that it does not.
fn fetch(
    stage: &mut Stage<'_>,
    show: &mut Show,
    (sandbox, url): (usize, &str),
) -> Result<(bool, String)> {
    let line = format!("fetch {url}");
    let answer = stage.ask(sandbox, &line)?;
    let name = SANDBOXES.get(sandbox).copied().unwrap_or_default();
    show.command(name, &line)?;
    show.lines(&answer.text)?;
    Ok((answer.is_ok(), answer.text))
}

fn permit(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("A request that the shield permits")?;
    let [v4, v6] = SERVICE;
    for sandbox in [0, 1] {
        let (came, text) = fetch(stage, show, (sandbox, &format!("http://{v4}:{PLAIN}/")))?;
        show.check(
            came && text.contains(&format!("you come as {HOST};")),
            "it is answered; the world sees the host's address",
        )?;
    }
    let (came, _) = fetch(stage, show, (0, &format!("http://[{v6}]:{PLAIN}/")))?;
    show.check(came, "the same over IPv6")
}

fn refuse(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("Requests that are refused, at two places")?;
    let host = stage.world.host_path();
    let filter = format!("host {REFUSED} or host {DENIED}");
    let mut capture = Capture::start(&host, &filter, stage.patience)?;
    let shield_tap = stage.told(SHIELD, "tap_name")?;
    let reached = |capture: &mut Capture, device: &str, address: &str| {
        let is_there = |seen: &Seen| seen.device == device && seen.dst.starts_with(address);
        capture.seen().iter().any(is_there)
    };

    let (came, _) = fetch(stage, show, (0, &format!("http://{REFUSED}:{PLAIN}/")))?;
    stage
        .patience
        .wait_until("the request reaches the shield", || {
            Ok(reached(&mut capture, &shield_tap, REFUSED))
        })?;
    let rules = stage.ask_shield("nft list chain inet shield forward")?;
    let rule = rules.text.lines().find(|line| line.contains("tcp reset"));
    show.lines(&format!("shield: {}", rule.unwrap_or_default().trim()))?;
    let is_counted = rule.is_some_and(|rule| !rule.contains("packets 0 "));
    show.check(
        !came && is_counted && !reached(&mut capture, "uplink", REFUSED),
        "a host that the shield's nft rules do not permit: it was asked, and refused",
    )?;

    let (came, _) = fetch(stage, show, (0, &format!("http://{DENIED}:{PLAIN}/")))?;
    let drops = stage.drops(A, "denied_cidr")?;
    show.lines(&format!(
        "netagent: {drops} packets of {A} dropped as denied_cidr"
    ))?;
    show.check(
        !came && drops > 0 && !reached(&mut capture, &shield_tap, DENIED),
        "a network that the sandbox's own policy denies: the shield was not even asked",
    )
}

fn trace(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("The way of a request and its answer, as captured on the host's interfaces")?;
    let [service, _] = SERVICE;
    let server = format!("{service}.{PLAIN}");
    // The first segment of either side alone.
    let filter = format!("tcp port {PLAIN} and tcp[tcpflags] & tcp-syn != 0");
    let host = stage.world.host_path();
    let mut capture = Capture::start(&host, &filter, stage.patience)?;
    let (client_tap, shield_tap) = (stage.told(A, "tap_name")?, stage.told(SHIELD, "tap_name")?);
    let answer = stage.ask(0, &format!("fetch http://{service}:{PLAIN}/"))?;
    stage
        .patience
        .wait_until("eight packets", || Ok(capture.seen().len() >= 8))?;
    let seen = capture.seen().to_vec();
    let what = [
        "the sandbox asks",
        "to the shield, unchanged",
        "from the shield, unchanged",
        "to the world, under the host's address",
        "the world answers",
        "to the shield first",
        "from the shield, unchanged",
        "to the sandbox",
    ];
    for (seen, what) in seen.iter().zip(what) {
        show.lines(&format!("{:<60}  {what}", seen.to_string()))?;
    }
    let client = seen
        .first()
        .map(|seen| seen.src.clone())
        .unwrap_or_default();
    let outside = seen.get(3).map(|seen| seen.src.clone()).unwrap_or_default();
    let places = [
        (&client_tap, true),
        (&shield_tap, false),
        (&shield_tap, true),
    ];
    let packet = |device: &str, is_in, src: &str, dst: &str| Seen {
        device: device.to_owned(),
        is_in,
        src: src.to_owned(),
        dst: dst.to_owned(),
    };
    let mut expected: Vec<Seen> = places
        .iter()
        .map(|(tap, is_in)| packet(tap, *is_in, &client, &server))
        .collect();
    expected.push(packet("uplink", false, &outside, &server));
    expected.push(packet("uplink", true, &server, &outside));
    let back = places.iter().rev();
    expected.extend(back.map(|(tap, is_in)| packet(tap, !is_in, &server, &client)));
    let is_translated = outside.starts_with(&format!("{HOST}."));
    let from_client = client.starts_with(&format!("{}.", stage.told(A, "ip")?));
    show.check(
        answer.is_ok() && seen == expected && is_translated && from_client,
        "addresses and ports are the same on both TAPs; the host's on the uplink alone",
    )
}

fn add_credential(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("A credential that the shield adds, and the sandbox never sees")?;
    let [v4, v6] = SERVICE;
    let host = stage.world.host_path();
    let dir = stage.agent.dir().to_owned();
    let tap = stage.told(A, "tap_name")?;
    let of_tap = Capture::to_file(&host, (&tap, &dir.join("tap.pcap")), stage.patience)?;
    let uplink = ("uplink", &*dir.join("uplink.pcap"));
    let of_uplink = Capture::to_file(&host, uplink, stage.patience)?;
    let (_, text) = fetch(stage, show, (0, &format!("http://{v4}:{PLAIN}/")))?;
    show.check(
        text.ends_with("credential: none"),
        "past the proxy the service sees no credential",
    )?;
    for url in [format!("http://{v4}/"), format!("http://[{v6}]/")] {
        let (_, text) = fetch(stage, show, (0, &url))?;
        show.check(
            text.ends_with("credential: right"),
            "on port 80 the shield's proxy adds it: the service saw the right one",
        )?;
    }
    let (came, _) = fetch(stage, show, (0, &format!("http://{REFUSED}/")))?;
    let requests = stage.requests()?;
    show.check(
        !came && !requests.contains("wrong") && requests.matches("right").count() == 2,
        "asked for another host the proxy refuses, and gives it to nobody",
    )?;
    let secret = stage.secret.clone();
    let known = stage.ask(0, "env; set; cat /proc/cmdline; cat /etc/* 2>/dev/null")?;
    let written = stage
        .sandboxes
        .iter()
        .any(|sandbox| sandbox.written().contains(&secret));
    show.check(
        !known.text.contains(&secret) && !written,
        "it is neither in the sandbox's environment nor in anything that it received",
    )?;
    let passed = |text: &str| stage.patience.wait_until(text, || of_uplink.holds(&secret));
    passed("the credential is captured on the uplink")?;
    show.check(
        of_tap.holds("credential: right")? && !of_tap.holds(&secret)?,
        "captured whole: no frame of the sandbox's TAP holds it, those of the uplink do",
    )?;
    of_tap.end();
    of_uplink.end();
    Ok(())
}

fn separate(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("No way between the VMs themselves")?;
    let (other, shield) = (stage.told(B, "ip")?, stage.told(SHIELD, "ip")?);
    let own = stage.told(A, "ip")?;
    for (address, what) in [
        (&other, "sandbox to sandbox"),
        (&shield, "sandbox to shield"),
    ] {
        let line = format!("ping -q -c 1 -W 1 {address} || fetch http://{address}:3128/");
        let answer = stage.ask(0, &line)?;
        show.check(!answer.is_ok(), &format!("{what} ({address}): closed"))?;
    }
    let answer = stage.ask_shield(&format!("ping -q -c 1 -W 1 {own}"))?;
    show.check(
        !answer.is_ok(),
        &format!("shield to sandbox ({own}): closed"),
    )
}

fn lose_shield(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("The shield's VM is killed")?;
    let [service, _] = SERVICE;
    let host = stage.world.host_path();
    stage.kill_shield()?;
    stage.wait_for_relay("down")?;
    let try_once = format!("ping -q -c 1 -W 1 {service}");
    // What is on its way to the dead VM's TAP is lost there; the first drop shows that nothing is any more.
    let start = stage.drops(A, "relay_down")?;
    let mut answered = false;
    let patience = stage.patience;
    let before = patience.wait_for("a drop as relay_down", || {
        answered |= stage.ask(0, &try_once)?.is_ok();
        let drops = stage.drops(A, "relay_down")?;
        Ok((drops > start).then_some(drops))
    })?;
    let filter = format!("host {service}");
    let mut capture = Capture::start(&host, &filter, stage.patience)?;
    for _ in 0..3 {
        answered |= stage.ask(0, &try_once)?.is_ok();
    }
    let tap = stage.told(A, "tap_name")?;
    let asked = |seen: &Seen| seen.device == tap;
    stage.patience.wait_until("the sandbox's packets", || {
        Ok(capture.seen().iter().filter(|seen| asked(seen)).count() >= 3)
    })?;
    let left = capture.seen().iter().filter(|seen| !asked(seen)).count();
    let drops = stage.drops(A, "relay_down")? - before;
    show.lines(&format!(
        "3 packets of {A}: {drops} dropped as relay_down, {left} seen elsewhere"
    ))?;
    show.check(
        !answered && drops == 3 && left == 0,
        "its sandboxes fail closed: nothing takes a direct way",
    )?;
    drop(capture);
    stage.start_shield()?;
    stage.shield()?;
    stage.wait_for_relay("up")?;
    let (came, text) = fetch(stage, show, (0, &format!("http://{service}/")))?;
    show.check(
        came && text.ends_with("credential: right"),
        "when it is back, everything works again, with nobody's help",
    )
}

fn count(stage: &mut Stage<'_>, show: &mut Show) -> Result<()> {
    show.section("What netagent counted")?;
    let shown = shell::read(&mut stage.agent.client(&["inspect", A]))?;
    show.lines(&shown)?;
    let counted = ["denied_cidr", "relay_down"].map(|reason| stage.drops(A, reason));
    let is_counted = counted
        .into_iter()
        .all(|drops| drops.is_ok_and(|drops| drops > 0));
    show.check(is_counted, "every refusal of it has its reason")
}
