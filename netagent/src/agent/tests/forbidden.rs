//! D-6: the resolver knows what no answer may lead to, as the host has it now.

use netagent_common::services::{Client, Place};

use super::*;
use crate::config::policy::VmToVm;
use crate::dns::Directory as _;
use crate::host::Changes;
use crate::host::fake::route;
use crate::plan::KernelRouteKind;
use crate::services::Directory;
use crate::spec::publish::PortsSpec;

struct Asked {
    running: Running,
    directory: Arc<Directory>,
}

async fn asked(config: Config) -> Asked {
    let files = Arc::new(TempDir::new().unwrap());
    let host = host();
    let started = start(host.clone(), config, &store_id(), store_in(&files)).await;
    let (agent, handle) = started.unwrap();
    let directory = Arc::clone(&agent.directory);
    let end = Arc::new(Notify::new());
    let ended = end.clone();
    let task = tokio::spawn(agent.run(async move { ended.notified().await }));
    let running = Running {
        host,
        handle: Local(handle),
        end,
        task,
        directory: files,
    };
    Asked { running, directory }
}

impl Asked {
    /// By the guest of the first slot.
    fn is_forbidden(&self, address: &str) -> bool {
        let client = Client {
            slot: 0,
            generation: 1,
            place: Place(0),
        };
        let asker = self.directory.client(client.to_v4().into()).unwrap();
        self.directory
            .is_forbidden(&asker, address.parse().unwrap())
    }

    async fn publish(&self, body: &str) {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let ports = PortsSpec::parse(body.as_object().unwrap()).unwrap();
        let handle = &self.running.handle.0;
        handle.publish(&caller(), "b".into(), ports).await.unwrap();
    }

    fn check(&self, table: &[(&str, bool)]) {
        for (address, expected) in table {
            assert_eq!(self.is_forbidden(address), *expected, "{address}");
        }
    }
}

#[tokio::test]
async fn d6_answers_lead_to_nothing_of_the_hosts_until_a_port_is_published_there() {
    let asked = asked(Config::default()).await;
    for name in ["a", "b"] {
        let text = format!(r#"{{"name": "{name}"}}"#);
        asked.running.handle.create(spec(&text)).await.unwrap();
    }
    let closed = [
        ("127.0.0.1", true),
        ("169.254.169.254", true),
        ("172.17.0.9", true),
        ("172.16.0.1", true),
        ("172.16.0.6", true),
        ("fd12:3456:789a:1::2", true),
        ("::ffff:192.0.2.2", true),
        ("64:ff9b::192.0.2.2", true),
        ("203.0.113.1", false),
        ("10.0.0.1", false),
        ("2001:db8:7::1", false),
    ];
    asked.check(&closed);
    asked.check(&[("192.0.2.2", true), ("2001:db8::2", true)]);
    asked.publish(r#"{"publish": ["8080:80"]}"#).await;
    asked.check(&[("192.0.2.2", false), ("2001:db8::2", false)]);
    asked.check(&closed);
    let limited = r#"{"publish": ["8080:80 from 198.51.100.0/24"]}"#;
    asked.publish(limited).await;
    asked.check(&[("192.0.2.2", true), ("2001:db8::2", true)]);
}

#[tokio::test]
async fn d6_what_becomes_a_network_behind_no_uplink_is_forbidden_from_then_on() {
    let asked = asked(Config::default()).await;
    let handle = &asked.running.handle;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    asked.check(&[("10.9.0.1", false)]);
    let host = &asked.running.host;
    let vpn = route("10.9.0.0/16", KernelRouteKind::Unicast, 3, None);
    host.state().observed.routes.push(vpn);
    host.say(Changes {
        network: true,
        ..Changes::default()
    });
    wait_for("the new route", async || asked.is_forbidden("10.9.0.1")).await;
    asked.check(&[("10.10.0.1", false)]);
}

#[tokio::test]
async fn d6_the_configuration_says_what_is_private_and_whose_instances_reach_each_other() {
    let mut config = Config::default();
    config.policy.deny_private = true;
    config.policy.vm_to_vm = VmToVm::Account;
    let asked = asked(config).await;
    for name in ["a", "b"] {
        let text = format!(r#"{{"name": "{name}"}}"#);
        asked.running.handle.create(spec(&text)).await.unwrap();
    }
    asked.check(&[
        ("10.0.0.1", true),
        ("fd77::1", true),
        ("203.0.113.1", false),
        // Another instance of the account, its gateway, and one that there is not.
        ("172.16.0.6", false),
        ("172.16.0.5", true),
        ("172.16.0.10", true),
    ]);
}
