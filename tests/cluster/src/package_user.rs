//! The users that Debian packages create for their servers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// The user who owns the processes and files of a server. PostgreSQL, for example, refuses to run as root, so root runs
/// it as the user of its package.
#[derive(Debug, Clone, Copy)]
pub struct PackageUser(Option<(u32, u32)>);

impl PackageUser {
    /// The user of this name. Only root changes the user.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let ids = users.lines().find_map(|line| ids(line, name));
        let ids = ids.with_context(|| {
            format!("there is no user {name}, and its server refuses to run as root")
        })?;
        Ok(Self(Some(ids)))
    }

    /// Makes a directory the user's, accessible to no one else.
    pub fn own(self, directory: &Path) -> anyhow::Result<()> {
        if let Self(Some((user, group))) = self {
            chown(directory, Some(user), Some(group))?;
        }
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        Ok(())
    }

    /// A command that runs as the user.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        // The other user may not be allowed to enter the current directory.
        command.current_dir("/").stdin(Stdio::null());
        if let Self(Some((user, group))) = self {
            command.uid(user).gid(group);
        }
        command
    }
}

/// User and group id in a line of `/etc/passwd`, if the line is that of `name`.
fn ids(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let mut fields = fields.skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_user_are_found() {
        let line = "postgres:x:104:111:PostgreSQL,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(ids(line, "postgres"), Some((104, 111)));
        assert_eq!(ids("postgres2:x:1:2::/:/bin/sh", "postgres"), None);
    }
}
