//! MQTT topics: `ty/1/<node>/<up|down>/<channel>`. Exactly these; one adapter each.

use crate::name::NodeName;

/// First levels of every topic: product and protocol version.
pub const PREFIX: &str = "ty/1";

/// What a node publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Up {
    /// Records, QoS 1.
    Report,
    /// Session opening and readiness, QoS 1.
    Session,
    /// Newest values, QoS 0, never stored.
    Live,
}

/// What a gateway publishes to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Down {
    /// Receipts, QoS 0, never retained.
    Receipt,
    /// Commands, QoS 0, never retained.
    Command,
    /// Config images, QoS 0, never retained.
    Config,
}

impl Up {
    /// The last topic level.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Session => "session",
            Self::Live => "live",
        }
    }
}

impl Down {
    /// The last topic level.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            Self::Command => "command",
            Self::Config => "config",
        }
    }
}

/// Longest topic: prefix, node, direction, channel.
pub const TOPIC_BYTES_MAX: usize = PREFIX.len() + 1 + 32 + 1 + 4 + 1 + 7;

/// A topic as text.
pub type Topic = heapless::String<TOPIC_BYTES_MAX>;

fn join(node: &NodeName, direction: &str, channel: &str) -> Topic {
    let mut topic = Topic::new();
    for part in [PREFIX, "/", node.as_str(), "/", direction, "/", channel] {
        // The capacity is that of the longest parts, so this cannot fail.
        if topic.push_str(part).is_err() {
            break;
        }
    }
    topic
}

/// The topic a node publishes `channel` on.
pub fn up(node: &NodeName, channel: Up) -> Topic {
    join(node, "up", channel.name())
}

/// The topic a node listens to `channel` on.
pub fn down(node: &NodeName, channel: Down) -> Topic {
    join(node, "down", channel.name())
}

/// Reads a topic that a node may publish on.
pub fn parse_up(topic: &str) -> Option<(NodeName, Up)> {
    let rest = topic.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let (node, rest) = rest.split_once('/')?;
    let channel = match rest.strip_prefix("up/")? {
        "report" => Up::Report,
        "session" => Up::Session,
        "live" => Up::Live,
        _ => return None,
    };
    Some((NodeName::new(node).ok()?, channel))
}

/// Reads a topic that a gateway may publish on.
pub fn parse_down(topic: &str) -> Option<(NodeName, Down)> {
    let rest = topic.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let (node, rest) = rest.split_once('/')?;
    let channel = match rest.strip_prefix("down/")? {
        "receipt" => Down::Receipt,
        "command" => Down::Command,
        "config" => Down::Config,
        _ => return None,
    };
    Some((NodeName::new(node).ok()?, channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_read_back_and_foreign_ones_are_refused() {
        let node = NodeName::new("pond-7").unwrap();
        for channel in [Up::Report, Up::Session, Up::Live] {
            assert_eq!(parse_up(&up(&node, channel)), Some((node.clone(), channel)));
        }
        for channel in [Down::Receipt, Down::Command, Down::Config] {
            assert_eq!(parse_down(&down(&node, channel)), Some((node.clone(), channel)));
        }
        for foreign in [
            "",
            "ty/1",
            "ty/2/a/up/report",
            "ty/1//up/report",
            "ty/1/a/up/report/x",
            "ty/1/A/up/live",
            "ty/1/a/down/receipt",
        ] {
            assert_eq!(parse_up(foreign), None, "{foreign}");
        }
    }

    extern crate std;
    use std::string::ToString as _;

    #[test]
    fn node_names_are_one_plain_topic_level() {
        for bad in ["", "-a", "A", "a b", "a/b", "a+", "池", &"a".repeat(33)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(NodeName::new("0-a").unwrap().to_string(), "0-a");
    }
}
