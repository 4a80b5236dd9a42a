//! The engine's own certificate authority, and what it signs: the server's certificate and the administrator's.
//!
//! Everything is made on first use and renewed at a start when it nears its end or when the server's names have changed. The
//! authority stays, so that clients' kubeconfigs go on working.

mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::auth::ADMINS_GROUP;
use file::{read, write_private};

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// Renewed at the first start within so many days of the end.
const RENEW_DAYS: i64 = 60;

/// Keys and certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("use `{path}`", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file holds no usable key or certificate; remove it, and a new one is made.
    #[error("`{path}` holds no usable {what}; remove it to have a new one made", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// `key` or `certificate`.
        what: &'static str,
    },
    /// A key or certificate cannot be made.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    /// TLS refuses them.
    #[error("use the certificates for TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The clock shows no possible date.
    #[error("compute the validity of a certificate")]
    Date(#[from] jiff::Error),
}

/// A certificate with its key, both as PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
}

/// What the engine's authority has signed.
pub struct Pki {
    /// The authority's certificate as PEM: what clients trust.
    pub ca_pem: String,
    /// The server's.
    pub server: Credential,
    /// `CN=admin, O=gantry:admins`.
    pub admin: Credential,
}

/// What a certificate is for.
enum Purpose<'a> {
    Server { names: &'a [String] },
    Client { user: &'a str, group: &'a str },
}

impl Pki {
    /// Reads what is in `dir`, and makes what is missing, near its end or no longer right: the server's names are `names`. Blocks.
    ///
    /// # Errors
    /// When files cannot be used. A damaged key or certificate of the authority is an error, since a new one would lock out all
    /// clients; the others are made anew.
    pub fn ensure(dir: &Path, names: &[String], now: Timestamp) -> Result<Self, PkiError> {
        file::make_dir(dir)?;
        let (ca_pem, issuer) = ensure_authority(dir, now)?;
        let authority = Authority { dir, ca_pem: &ca_pem, issuer: &issuer, now };
        let server = authority.ensure("server", &Purpose::Server { names })?;
        let admin = authority.ensure("admin", &Purpose::Client { user: "admin", group: ADMINS_GROUP })?;
        Ok(Self { ca_pem, server, admin })
    }

    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1; a client certificate is not needed, but if there is one our authority must have
    /// signed it.
    ///
    /// # Errors
    /// When the certificates do not fit.
    pub fn tls_config(&self) -> Result<rustls::ServerConfig, PkiError> {
        fn tls(error: impl std::error::Error + Send + Sync + 'static) -> PkiError {
            PkiError::Tls(Box::new(error))
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(tls)?).map_err(tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.allow_unauthenticated().build().map_err(tls)?;
        let certificate = CertificateDer::from_pem_slice(self.server.certificate_pem.as_bytes()).map_err(tls)?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key_pem.as_bytes()).map_err(tls)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig of the administrator, complete in itself.
    pub fn kubeconfig(&self, address: SocketAddr) -> String {
        // A wildcard is no address to connect to; the loopback is in the certificate.
        let host = match address {
            SocketAddr::V4(a) if a.ip().is_unspecified() => format!("127.0.0.1:{}", a.port()),
            SocketAddr::V6(a) if a.ip().is_unspecified() => format!("[::1]:{}", a.port()),
            address => address.to_string(),
        };
        let (ca, certificate, key) =
            (STANDARD.encode(&self.ca_pem), STANDARD.encode(&self.admin.certificate_pem), STANDARD.encode(&self.admin.key_pem));
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: gantry\n  \
               cluster:\n    \
                 server: https://{host}\n    \
                 certificate-authority-data: {ca}\n\
             users:\n\
             - name: gantry-admin\n  \
               user:\n    \
                 client-certificate-data: {certificate}\n    \
                 client-key-data: {key}\n\
             contexts:\n\
             - name: gantry\n  \
               context:\n    \
                 cluster: gantry\n    \
                 user: gantry-admin\n\
             current-context: gantry\n"
        )
    }

    /// Writes [`kubeconfig`](Self::kubeconfig), mode 0600, unless the file holds just that.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, address: SocketAddr) -> Result<(), PkiError> {
        let wanted = self.kubeconfig(address);
        if read(path)?.as_deref() == Some(&wanted) { Ok(()) } else { write_private(path, &wanted) }
    }
}

fn ensure_authority(dir: &Path, now: Timestamp) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let (key_path, path) = (dir.join("ca.key"), dir.join("ca.crt"));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "gantry-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = match read(&key_path)? {
        Some(pem) => KeyPair::from_pem(&pem).map_err(|_| PkiError::Unusable { path: key_path, what: "key" })?,
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            write_private(&key_path, &key.serialize_pem())?;
            key
        }
    };
    let known = read(&path)?;
    if let Some(pem) = &known {
        let facts = Facts::of(pem).ok_or_else(|| PkiError::Unusable { path: path.clone(), what: "certificate" })?;
        if facts.ends > (now + (RENEW_DAYS * 24).hours()).as_second() && facts.key == key.public_key_raw() {
            return Ok((pem.clone(), Issuer::new(params, key)));
        }
    }
    set_validity(&mut params, now, CA_YEARS)?;
    let pem = params.self_signed(&key)?.pem();
    write_private(&path, &pem)?;
    Ok((pem, Issuer::new(params, key)))
}

struct Authority<'a> {
    dir: &'a Path,
    ca_pem: &'a str,
    issuer: &'a Issuer<'static, KeyPair>,
    now: Timestamp,
}

impl Authority<'_> {
    fn ensure(&self, name: &str, purpose: &Purpose<'_>) -> Result<Credential, PkiError> {
        let (path, key_path) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if let (Some(certificate_pem), Some(key_pem)) = (read(&path)?, read(&key_path)?)
            && self.is_good(&certificate_pem, &key_pem, purpose)
        {
            return Ok(Credential { certificate_pem, key_pem });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let made = Credential { certificate_pem: self.sign(&key, purpose)?, key_pem: key.serialize_pem() };
        // A crash in between leaves two that do not fit, which the next start finds out.
        write_private(&key_path, &made.key_pem)?;
        write_private(&path, &made.certificate_pem)?;
        Ok(made)
    }

    fn sign(&self, key: &KeyPair, purpose: &Purpose<'_>) -> Result<String, PkiError> {
        let mut params = match purpose {
            Purpose::Server { names } => {
                let mut params = CertificateParams::new(*names)?;
                params.distinguished_name.push(DnType::CommonName, "gantry-apiserver");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params
            }
            Purpose::Client { user, group } => {
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::OrganizationName, *group);
                params.distinguished_name.push(DnType::CommonName, *user);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params
            }
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, self.now, LEAF_YEARS)?;
        Ok(params.signed_by(key, self.issuer)?.pem())
    }

    /// Signed by this authority, with this key, far from its end, and for the wanted names.
    fn is_good(&self, certificate_pem: &str, key_pem: &str, purpose: &Purpose<'_>) -> bool {
        let (Some(facts), Ok(key)) = (Facts::of(certificate_pem), KeyPair::from_pem(key_pem)) else { return false };
        let names_fit = match purpose {
            Purpose::Server { names } => {
                let mut wanted: Vec<String> = names.to_vec();
                wanted.sort();
                facts.names == wanted
            }
            Purpose::Client { .. } => true,
        };
        let lasts = facts.ends > (self.now + (RENEW_DAYS * 24).hours()).as_second();
        names_fit && lasts && facts.key == key.public_key_raw() && is_signed_by(certificate_pem, self.ca_pem)
    }
}

/// Midnight of yesterday to midnight some years later: clocks differ, and certificates count whole days.
fn set_validity(params: &mut CertificateParams, now: Timestamp, years: i16) -> Result<(), PkiError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let convert = |date: jiff::civil::Date| {
        let positive = |n: i8| n.unsigned_abs();
        rcgen::date_time_ymd(i32::from(date.year()), positive(date.month()), positive(date.day()))
    };
    params.not_before = convert(today.checked_sub(1.day())?);
    params.not_after = convert(today.checked_add(years.years())?);
    Ok(())
}

/// What a certificate says.
struct Facts {
    /// Seconds since 1970.
    ends: i64,
    names: Vec<String>,
    key: Vec<u8>,
}

impl Facts {
    fn of(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        let mut names: Vec<String> = names.filter_map(show_name).collect();
        names.sort();
        let key = certificate.public_key().subject_public_key.data.to_vec();
        Some(Self { ends: certificate.validity().not_after.timestamp(), names, key })
    }
}

fn show_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|o| std::net::Ipv4Addr::from(o).to_string()),
            16 => <[u8; 16]>::try_from(*octets).ok().map(|o| std::net::Ipv6Addr::from(o).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn is_signed_by(certificate_pem: &str, ca_pem: &str) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(certificate), Some(ca)) = (der(certificate_pem), der(ca_pem)) else { return false };
    match (X509Certificate::from_der(&certificate), X509Certificate::from_der(&ca)) {
        (Ok((_, certificate)), Ok((_, ca))) => certificate.verify_signature(Some(ca.public_key())).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn names(more: &[&str]) -> Vec<String> {
        ["127.0.0.1", "::1", "localhost"].iter().chain(more).map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_good_is_kept_and_the_rest_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let ensure = |names: &[String], now| Pki::ensure(dir.path(), names, at(now)).unwrap();
        let first = ensure(&names(&[]), "2026-01-01T10:00:00Z");
        let facts = Facts::of(&first.server.certificate_pem).unwrap();
        assert_eq!((facts.ends, facts.names), (at("2027-01-01T00:00:00Z").as_second(), names(&[])));
        let again = ensure(&names(&[]), "2026-10-01T00:00:00Z");
        assert_eq!(first.server.certificate_pem, again.server.certificate_pem);

        let renamed = ensure(&names(&["10.0.0.7"]), "2026-10-01T00:00:00Z");
        assert_ne!(first.server.certificate_pem, renamed.server.certificate_pem);
        assert_eq!((&first.ca_pem, &first.admin.certificate_pem), (&renamed.ca_pem, &renamed.admin.certificate_pem));

        let later = ensure(&names(&["10.0.0.7"]), "2026-12-01T00:00:00Z");
        assert_eq!((first.ca_pem == later.ca_pem, later.server.certificate_pem == renamed.server.certificate_pem), (true, true));
        assert_ne!(first.admin.certificate_pem, later.admin.certificate_pem);

        std::fs::write(dir.path().join("server.key"), &later.admin.key_pem).unwrap();
        let mended = ensure(&names(&["10.0.0.7"]), "2026-12-01T00:00:00Z");
        assert_ne!(mended.server.certificate_pem, later.server.certificate_pem);
        mended.tls_config().unwrap();
    }

    #[test]
    fn a_damaged_authority_is_an_error_and_another_one_has_its_own_certificates() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = at("2026-01-01T10:00:00Z");
        let first = Pki::ensure(dir.path(), &names(&[]), now).unwrap();
        Pki::ensure(other.path(), &names(&[]), now).unwrap();
        for file in ["ca.key", "ca.crt"] {
            std::fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
        }
        let second = Pki::ensure(dir.path(), &names(&[]), now).unwrap();
        assert_ne!(first.admin.certificate_pem, second.admin.certificate_pem);
        std::fs::write(dir.path().join("ca.key"), "x").unwrap();
        let refused = Pki::ensure(dir.path(), &names(&[]), now).err().unwrap();
        assert!(matches!(refused, PkiError::Unusable { what: "key", .. }), "{refused}");
    }

    #[test]
    fn the_administrators_certificate_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &names(&[]), at("2026-01-01T10:00:00Z")).unwrap();
        let der = CertificateDer::from_pem_slice(pki.admin.certificate_pem.as_bytes()).unwrap();
        assert_eq!(crate::auth::identity_of_certificate(&der), Some(crate::auth::Identity::admin()));
    }

    #[test]
    fn only_the_owner_reads_the_files() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(&dir.path().join("pki"), &names(&[]), at("2026-01-01T10:00:00Z")).unwrap();
        let kubeconfig = dir.path().join("admin.kubeconfig");
        pki.write_kubeconfig(&kubeconfig, "0.0.0.0:7443".parse().unwrap()).unwrap();
        assert!(std::fs::read_to_string(&kubeconfig).unwrap().contains("server: https://127.0.0.1:7443\n"));
        let files = std::fs::read_dir(dir.path().join("pki")).unwrap().map(|entry| entry.unwrap().path());
        let modes: Vec<_> = files.chain([kubeconfig]).map(|path| std::fs::metadata(path).unwrap().mode() & 0o777).collect();
        assert_eq!(modes, [0o600; 7]);
    }
}
