//! Options about connections to the outside.

use std::sync::Arc;

use clap::Args;

use crate::kernel::inherited;
use crate::options::Inherited;
use crate::outside::{OutsideKind, OutsideMatch, OutsidePolicy, OutsideRule, OutsideRules};

/// Options that dump and restore have in common.
#[derive(Debug, Args)]
pub(crate) struct OutsideArgs {
    /// What becomes of connections to processes outside the dump: refuse, keep
    /// (a keeper holds them until the restore), reconnect, close, auto (keep,
    /// else reconnect, else close); of all, or of a kind: unix, tcp, pipe, tty.
    /// May be repeated; the last that fits holds
    #[arg(long, value_name = "[KIND=]POLICY")]
    outside: Vec<OutsideRule>,

    /// The same as --outside unix=auto
    #[arg(long)]
    ext_unix_sk: bool,
}

impl OutsideArgs {
    /// Its rules. (`--ext-unix-sk` among words has become what it means
    /// already, in its place; what is left comes from a file of defaults.)
    pub(crate) fn rules(&self) -> OutsideRules {
        let early = self.ext_unix_sk.then_some(OutsideRule {
            of: OutsideMatch::Kind(OutsideKind::Unix),
            policy: OutsidePolicy::Auto,
        });
        early
            .into_iter()
            .chain(self.outside.iter().copied())
            .collect()
    }
}

/// `--external TYPE[ID]`: one resource that is the caller's business. Sockets
/// only, by inode number.
pub(crate) fn external(text: &str) -> Result<OutsideRule, String> {
    let (kind, rest) = text.split_once('[').unwrap_or((text, ""));
    if kind != "unix" {
        return Err(format!(
            "external resources of type {kind:?} are not supported; unix[INODE] is"
        ));
    }
    let inode = rest.strip_suffix(']').and_then(|inode| inode.parse().ok());
    let inode = inode.ok_or("write unix[INODE], with the number that socket:[INODE] shows")?;
    Ok(OutsideRule {
        of: OutsideMatch::UnixSocket(inode),
        policy: OutsidePolicy::Auto,
    })
}

/// `--inherit-fd fd[N]:KEY`.
pub(crate) fn inherited(text: &str) -> Result<Inherited, String> {
    let split = text
        .strip_prefix("fd[")
        .and_then(|rest| rest.split_once("]:"));
    let (number, key) = split.ok_or("write fd[N]:KEY")?;
    let number = number.parse().map_err(|_| "N must be a number")?;
    let fd = inherited::duplicate(number)
        .map_err(|e| format!("descriptor {number} of this process: {e}"))?;
    Ok(Inherited {
        key: key.to_owned(),
        fd: Arc::new(fd),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_is_named_by_its_inode() {
        let rule = external("unix[4711]").unwrap();
        assert_eq!(rule.of, OutsideMatch::UnixSocket(4711));
    }

    #[test]
    fn other_resources_are_refused_by_name() {
        let error = external("mnt[/x]:/y").unwrap_err();
        assert!(
            error.starts_with("external resources of type \"mnt\""),
            "{error}"
        );
        for text in ["unix", "unix[]", "unix[x]", "unix[1", "unix[1]:x"] {
            assert!(external(text).is_err(), "{text}");
        }
    }
}
