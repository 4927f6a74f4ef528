//! What the logs tell at start: windows from the spool's checkpoint and entries, what waits from
//! the held log's.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use spool::{Files, OpenError, Replay, read_only};
use telemetry::NodeName;
use telemetry::record::{Description, Record};

use super::held::{HeldEntry, Index};
use super::window::{Code, Node};
use super::{Core, Log};
use crate::entry::{Content, Entry, cbor};

/// The state before an entry of the spool, as the entries before it in the spool make it: what is
/// on its way to the held log is no part of it yet.
pub(super) fn encode_checkpoint(core: &Core) -> Vec<u8> {
    let settled = |name: &NodeName| core.pending.get(name).is_none_or(|pending| pending.log == Log::Spool);
    let codes: Vec<Code> = core
        .nodes
        .iter()
        .filter_map(|(name, node)| Some((name, if settled(name) { node } else { core.durable.get(name)? })))
        .flat_map(|(name, node)| {
            node.rings.iter().map(|ring| Code::of(name.as_str(), node, ring, usize::MAX, true, true))
        })
        .collect();
    let resolved: Vec<u64> = core.resolving.iter().chain(&core.resolved).copied().collect();
    cbor(&(codes, resolved))
}

/// What each node measures by its newest config, from a spool that another process may be writing.
/// Nodes of which everything waits in the held log are not known here.
///
/// # Errors
/// When the spool cannot be read.
pub fn described(files: &dyn Files, data_dir: &Path) -> Result<Vec<(NodeName, Arc<Description>)>, OpenError> {
    let mut nodes = HashMap::new();
    read_only(files, &data_dir.join("spool"), &mut |replay| replay_spool(replay, &mut nodes, &mut HashSet::new()))?;
    Ok(nodes.into_iter().filter_map(|(name, node)| Some((name, Arc::clone(node.description()?)))).collect())
}

fn apply(code: &Code, nodes: &mut HashMap<NodeName, Node>) {
    if let Ok(name) = NodeName::new(&code.node) {
        code.apply(nodes.entry(name).or_default());
    }
}

pub(super) fn replay_spool(replay: Replay, nodes: &mut HashMap<NodeName, Node>, resolved: &mut HashSet<u64>) {
    match replay {
        Replay::Checkpoint(bytes) => match minicbor::decode::<(Vec<Code>, Vec<u64>)>(&bytes) {
            Ok((codes, resolving)) => {
                codes.iter().for_each(|code| apply(code, nodes));
                resolved.extend(resolving);
            }
            Err(error) => tracing::error!(%error, "a checkpoint cannot be read"),
        },
        Replay::Entry { index, bytes } => match Entry::decode(&bytes) {
            Ok(Entry::Window(bytes)) => match minicbor::decode::<Code>(&bytes) {
                Ok(code) => apply(&code, nodes),
                Err(error) => tracing::error!(index, %error, "a window cannot be read"),
            },
            Ok(Entry::Accepted(accepted)) => {
                resolved.extend(accepted.held);
                let Ok(code) = minicbor::decode::<Code>(&accepted.window) else {
                    return tracing::error!(index, "a window cannot be read");
                };
                apply(&code, nodes);
                let ring = NodeName::new(&accepted.node).ok().and_then(|n| nodes.get_mut(&n)?.ring_mut(accepted.ring));
                let Some(ring) = ring else { return };
                for record in &accepted.records {
                    if let Content::Description(bytes) = &record.content
                        && let Ok((_, Record::Description(description))) = Record::decode(bytes)
                    {
                        ring.describe(description);
                    }
                }
            }
            Err(error) => tracing::error!(index, %error, "a spool entry cannot be read"),
        },
    }
}

pub(super) fn replay_held(replay: Replay, nodes: &mut HashMap<NodeName, Node>, waiting: &mut Index) {
    match replay {
        Replay::Checkpoint(bytes) => match Index::decode(&bytes) {
            Some(index) => *waiting = index,
            None => tracing::error!("the held log's checkpoint cannot be read"),
        },
        Replay::Entry { index, bytes } => match minicbor::decode::<HeldEntry>(&bytes) {
            Ok(entry) => {
                waiting.apply(index, &entry, bytes.len() as u64);
                let HeldEntry::Waiting(waiting) = &entry else { return };
                let Some(code) = &waiting.window else { return };
                let Ok(name) = NodeName::new(&code.node) else { return };
                // The spool may have gone on from here: only what it does not know counts.
                let ahead = nodes.get(&name).and_then(|n| n.ring(code.ring)).is_none_or(|r| r.next < code.next);
                if ahead {
                    apply(code, nodes);
                } else if let Some(ring) = nodes.get_mut(&name).and_then(|n| n.ring_mut(code.ring)) {
                    code.supply(ring);
                }
            }
            Err(error) => tracing::error!(index, %error, "a held entry cannot be read"),
        },
    }
}
