//! Passwords as `htpasswd` writes them.
//!
//! Pure, and slow by design: called where waiting is allowed. bcrypt (`-B`), Apache's MD5 (`-m`), SHA-1
//! (`-s`), SHA-256 and SHA-512 of crypt(3) (`-2`, `-5`), and the MD5 of crypt(3). Its two others, DES and clear text, are not
//! taken: such an entry lets nobody in.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha1::Sha1;

/// A bcrypt of a higher cost takes longer than a request should.
const BCRYPT_COST: u32 = 14;
/// And so do more rounds than these of the others.
const ROUNDS: u32 = 100_000;
/// Apache's MD5 and that of crypt(3).
const MD5_KINDS: [&str; 2] = ["$apr1$", "$1$"];
/// Longer ones are nobody's password.
const PASSWORD_LENGTH: usize = 1024;

/// The hash of each user's password.
#[derive(Default)]
pub struct Passwords(BTreeMap<String, String>);

impl Passwords {
    /// From a file of lines `user:hash`; empty lines and comments count for nothing.
    pub fn of_file(file: &[u8]) -> Passwords {
        let text = String::from_utf8_lossy(file);
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let entry = |line: &str| {
            let (user, hash) = line.split_once(':')?;
            // What stands behind a further colon is a remark.
            let hash = hash.split(':').next().unwrap_or_default();
            Some((user.to_owned(), hash.to_owned()))
        };
        let mut users = BTreeMap::new();
        for (user, hash) in lines.filter_map(entry) {
            // As for Apache, the first entry of a user counts.
            users.entry(user).or_insert(hash);
        }
        Passwords(users)
    }

    /// From the data of a Secret whose keys are the users.
    pub fn of_map(data: &BTreeMap<String, Vec<u8>>) -> Passwords {
        let text = |hash: &Vec<u8>| String::from_utf8_lossy(hash).trim().to_owned();
        Passwords(data.iter().map(|(user, hash)| (user.clone(), text(hash))).collect())
    }

    /// The hash of a user's password.
    pub fn hash(&self, user: &str) -> Option<&str> {
        self.0.get(user).map(String::as_str)
    }

    /// Users whose hash is of no kind that is known, or takes too long.
    pub fn unusable(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, hash)| !is_known(hash)).map(|(user, _)| user.as_str()).collect()
    }
}

fn is_known(hash: &str) -> bool {
    let rounds = |kind: &str| {
        let rest = hash.strip_prefix(kind)?;
        let Some(rest) = rest.strip_prefix("rounds=") else { return Some(true) };
        Some(rest.split('$').next()?.parse::<u32>().is_ok_and(|rounds| rounds <= ROUNDS))
    };
    let bcrypt = ["$2y$", "$2a$", "$2b$"].iter().find_map(|kind| hash.strip_prefix(kind));
    match bcrypt {
        Some(rest) => {
            rest.get(..2).and_then(|cost| cost.parse::<u32>().ok()).is_some_and(|c| c <= BCRYPT_COST)
        }
        None => {
            MD5_KINDS.iter().any(|kind| hash.starts_with(kind))
                || hash.starts_with("{SHA}")
                || rounds("$5$").or_else(|| rounds("$6$")).unwrap_or(false)
        }
    }
}

/// Whether the hash is that of the password.
pub fn verify(hash: &str, password: &[u8]) -> bool {
    if !is_known(hash) || password.len() > PASSWORD_LENGTH {
        return false;
    }
    if let Some(sum) = hash.strip_prefix("{SHA}") {
        return equal(STANDARD.encode(Sha1::digest(password)).as_bytes(), sum.as_bytes());
    }
    for kind in MD5_KINDS {
        if let Some(rest) = hash.strip_prefix(kind) {
            let Some((salt, sum)) = rest.split_once('$') else { return false };
            return equal(md5_crypt(kind, password, salt.as_bytes()).as_bytes(), sum.as_bytes());
        }
    }
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    let Ok(password) = std::str::from_utf8(password) else { return false };
    match hash.starts_with("$5$") {
        true => sha_crypt::sha256_check(password, hash).is_ok(),
        false => sha_crypt::sha512_check(password, hash).is_ok(),
    }
}

/// Compares in a time that does not tell where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The MD5 of crypt(3) and Apache's variant, which differs in its name alone: a thousand rounds of MD5
/// over password and salt (<https://httpd.apache.org/docs/2.4/misc/password_encryptions.html>).
fn md5_crypt(kind: &str, password: &[u8], salt: &[u8]) -> String {
    let salt = &salt[..salt.len().min(8)];
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(kind).chain_update(salt);
    for chunk in password.chunks(16) {
        first.update(&inner[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut sum = first.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        next.update(if round % 2 == 1 { password } else { &sum[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round % 2 == 1 { &sum[..] } else { password });
        sum = next.finalize();
    }
    let mut text = String::with_capacity(22);
    let mut put = |mut value: u32, count: usize| {
        const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        for _ in 0..count {
            text.push(char::from(ALPHABET[(value & 63) as usize]));
            value >>= 6;
        }
    };
    let byte = |at: usize| u32::from(sum[at]);
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        put(byte(a) << 16 | byte(b) << 8 | byte(c), 4);
    }
    put(byte(11), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_htpasswd_writes() {
        for hash in HASHES {
            assert!(verify(hash, b"secret"), "{hash}");
            assert!(!verify(hash, b"Secret") && !verify(hash, b""), "{hash}");
        }
        // What is not taken, and what would take for ever.
        for hash in
            ["", "secret", "rqXexS6ZhobKA", "$apr1$", "$2y$31$abc", "$6$rounds=999999999$a$b", "{SHA}"]
        {
            assert!(!verify(hash, b"secret") && !verify(hash, b""), "{hash}");
        }
    }

    #[test]
    fn files_and_maps() {
        let file = Passwords::of_file(b"# users\n\nann:{SHA}a:remark\nbob:x\nann:{SHA}b\nnothing\n");
        assert_eq!(
            (file.hash("ann"), file.hash("bob"), file.hash("nothing")),
            (Some("{SHA}a"), Some("x"), None)
        );
        assert_eq!(file.unusable(), ["bob"]);
        let map = Passwords::of_map(&BTreeMap::from([("ann".to_owned(), b"{SHA}a\n".to_vec())]));
        assert_eq!(map.hash("ann"), Some("{SHA}a"));
    }

    const HASHES: &[&str] = &[
        "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
        "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
        "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
        "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "$2b$04$caA4jnKPYUGV2VAOT.8s1.bZPJfrHoFNRtu8p0Gma3NW40MRCVZDO",
    ];
}
