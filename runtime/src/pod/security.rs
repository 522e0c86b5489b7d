//! Whose rights an OCI container's process has: pod and container security contexts and the
//! image's user, merged.
//!
//! Pure; the image's `passwd` and `group` are read by the caller (`container.rs`). Source:
//! <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>.

use k8s_openapi::api::core::v1::{Container, Pod};
use proa_sandbox::protocol::{ID_MAX, Security};

use crate::pod::observed::full_name;

/// The image's view of its users.
#[derive(Clone, Debug, Default)]
pub struct ImageUsers {
    /// `User` of the image's configuration: `name`, `uid`, `name:group`, `uid:gid` or empty.
    pub user: String,
    /// Text of `/etc/passwd`, empty if there is none.
    pub passwd: String,
    /// Text of `/etc/group`, empty if there is none.
    pub group: String,
}

/// Identity and privileges, and the user's home directory if the image tells it. An error is the
/// message of a `CreateContainerConfigError`.
pub fn security(
    pod: &Pod,
    container: &Container,
    image: &ImageUsers,
) -> Result<(Security, Option<String>), String> {
    let spec = pod.spec.as_ref();
    let of_pod = spec.and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let (image_uid, image_gid) = image_user(image)?;
    let wanted_uid = own.run_as_user.or(of_pod.run_as_user).map(id).transpose()?;
    let uid = wanted_uid.unwrap_or(image_uid);
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        check_non_root(pod, container, image, wanted_uid, uid)?;
    }
    let account = image.passwd.lines().find_map(|line| account(line).filter(|a| a.uid == uid));
    let gid = match own.run_as_group.or(of_pod.run_as_group) {
        Some(group) => id(group)?,
        None if wanted_uid.is_none() => image_gid.or(account.as_ref().map(|a| a.gid)).unwrap_or(0),
        None => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut groups = match (&account, of_pod.supplemental_groups_policy.as_deref()) {
        (Some(account), None | Some("Merge")) => groups_of(&image.group, account.name),
        _ => Vec::new(),
    };
    for group in of_pod.supplemental_groups.iter().flatten().chain(&of_pod.fs_group) {
        groups.push(id(*group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let capabilities = own.capabilities.unwrap_or_default();
    let names = |list: Option<Vec<String>>| {
        let list = list.unwrap_or_default().into_iter();
        list.map(|name| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)).collect()
    };
    let privileged = own.privileged.unwrap_or(false);
    let profile = own.seccomp_profile.or(of_pod.seccomp_profile).map(|p| p.type_);
    if profile.as_deref() == Some("Localhost") {
        return Err("securityContext.seccompProfile.type: Localhost is not supported".to_owned());
    }
    let security = Security {
        uid,
        gid,
        additional_gids: groups,
        add_capabilities: names(capabilities.add),
        drop_capabilities: names(capabilities.drop),
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp_unconfined: privileged || profile.as_deref() == Some("Unconfined"),
        host_pid: spec.and_then(|s| s.host_pid).unwrap_or(false),
        host_ipc: spec.and_then(|s| s.host_ipc).unwrap_or(false),
    };
    Ok((security, account.map(|a| a.home.to_owned())))
}

fn check_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageUsers,
    wanted: Option<u32>,
    uid: u32,
) -> Result<(), String> {
    let at = format!("(pod: \"{}\", container: {})", full_name(pod), container.name);
    let name = image.user.split(':').next().unwrap_or_default();
    match wanted {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {at}")),
        Some(_) => Ok(()),
        None if !name.is_empty() && number(name).is_none() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {at}"
        )),
        None if uid == 0 => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        None => Ok(()),
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let (uid, gid) = (number(fields.nth(1)?)?, number(fields.next()?)?);
    Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or("/") })
}

/// User and, if it is known, group that the image asks for.
fn image_user(image: &ImageUsers) -> Result<(u32, Option<u32>), String> {
    let (user, group) = match image.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image.user.as_str(), None),
    };
    let account = image.passwd.lines().filter_map(account).find(|a| a.name == user);
    let uid = match (user, &account) {
        ("", _) => 0,
        (_, Some(account)) => account.uid,
        _ => number(user)
            .ok_or_else(|| format!("unable to find user {user}: no matching entries in passwd file"))?,
    };
    let gid =
        match group.filter(|g| !g.is_empty()) {
            None => account.map(|a| a.gid),
            Some(group) => {
                let found = image.group.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    let name = fields.next()?;
                    let gid = number(fields.nth(1)?)?;
                    (name == group).then_some(gid)
                });
                let gid = found.or_else(|| number(group));
                Some(gid.ok_or_else(|| {
                    format!("unable to find group {group}: no matching entries in group file")
                })?)
            }
        };
    Ok((uid, gid))
}

/// Groups that list the user as a member.
fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = number(fields.nth(2)?)?;
        fields.next()?.split(',').any(|name| name == user).then_some(gid)
    };
    group.lines().filter_map(member).collect()
}

/// An id as an image writes it.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// An id as a pod has it.
fn id(value: i64) -> Result<u32, String> {
    let id = u32::try_from(value).ok().filter(|id| *id <= ID_MAX);
    id.ok_or_else(|| format!("{value} is no user or group id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(pod: Value, own: Value, user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let image = ImageUsers {
            user: user.to_owned(),
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/sh\n\
                max:x:4294967295:34::/:/bin/sh\nmaxgroup:x:35:4294967295::/:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:\nwww:x:34:\nlog:x:40:root,web\nhuge:x:4294967295:web\n".to_owned(),
        };
        let found = security(&pod, &pod.spec.as_ref().unwrap().containers[0], &image);
        match expected {
            Ok((uid, gid, groups)) => {
                let (found, _) = found.unwrap();
                assert_eq!((found.uid, found.gid, &found.additional_gids[..]), (uid, gid, groups));
            }
            Err(message) => assert_eq!(found.unwrap_err(), message),
        }
    }

    #[test]
    fn users_and_groups() {
        check(json!({}), json!({}), "", Ok((0, 0, &[40])));
        check(json!({}), json!({}), "web", Ok((33, 34, &[40])));
        check(json!({}), json!({}), "web:log", Ok((33, 40, &[40])));
        check(json!({}), json!({}), "1000:1001", Ok((1000, 1001, &[])));
        check(json!({"runAsUser": 7, "fsGroup": 9}), json!({}), "web", Ok((7, 0, &[9])));
        check(json!({"runAsUser": 7}), json!({"runAsUser": 33, "runAsGroup": 1}), "", Ok((33, 1, &[40])));
        let non_root = json!({"runAsNonRoot": true});
        check(non_root.clone(), json!({}), "33", Ok((33, 34, &[40])));
        check(
            non_root.clone(),
            json!({}),
            "",
            Err("container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"),
        );
        check(
            non_root,
            json!({}),
            "web",
            Err("container has runAsNonRoot and image has non-numeric user (web), cannot verify user is \
                 non-root (pod: \"p_n(u)\", container: c)"),
        );
        for user in ["4294967295", "2147483648:1000", "max", "maxgroup", "nobody"] {
            let name = user.split(':').next().unwrap();
            let message = format!("unable to find user {name}: no matching entries in passwd file");
            check(json!({}), json!({}), user, Err(&message));
        }
        for user in ["web:4294967295", "web:huge"] {
            let name = user.split(':').nth(1).unwrap();
            let message = format!("unable to find group {name}: no matching entries in group file");
            check(json!({}), json!({}), user, Err(&message));
        }
        check(json!({"runAsUser": 2_147_483_647}), json!({}), "", Ok((i32::MAX.cast_unsigned(), 0, &[])));
        check(json!({"fsGroup": 2_147_483_648_i64}), json!({}), "", Err("2147483648 is no user or group id"));
    }
}
