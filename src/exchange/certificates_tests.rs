use jiff::SignedDuration;
use rstest::rstest;

use super::*;

fn now() -> Timestamp {
    "2026-11-26T01:30:00Z".parse().unwrap()
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn gateway() -> Identity {
    Identity::Gateway { namespace: "team".to_owned() }
}

#[test]
fn names_are_those_that_both_ends_verify() {
    assert_eq!(Identity::Operator.name(), "operator");
    assert_eq!(gateway().name(), "team.gateway.quartermaster.internal");
}

#[test]
fn a_certificate_is_valid_for_ninety_days_and_an_hour_for_clocks_that_are_behind() {
    let authority = Authority::make(now()).unwrap();
    let leaf = authority.issue(&gateway(), now()).unwrap();
    let der = certificate_der(&leaf.certificate).unwrap();
    let validity = parse(&der).unwrap().validity().clone();
    assert_eq!(validity.not_before.timestamp(), (now() - SignedDuration::from_hours(1)).as_second());
    assert_eq!(validity.not_after.timestamp(), (now() + days(90)).as_second());
    let renewal = renewal_due(&leaf.certificate).unwrap();
    assert!(renewal > now() + days(59) && renewal < now() + days(61), "{renewal}");
}

#[test]
fn the_authority_lives_ten_years_and_is_renewed_with_its_key() {
    let authority = Authority::make(now()).unwrap();
    assert!(!authority.must_renew(now() + days(2400)).unwrap());
    assert!(authority.must_renew(now() + days(2440)).unwrap());
    let renewed = authority.renewed(now() + days(2440)).unwrap();
    assert!(!renewed.must_renew(now() + days(2440)).unwrap());
    assert_ne!(renewed.certified().certificate, authority.certified().certificate);
    // What the old certificate has signed is good under the new one.
    let leaf = authority.issue(&gateway(), now() + days(2400)).unwrap();
    assert!(!renewed.must_issue(&leaf, &gateway(), now() + days(2440)));
}

#[test]
fn what_was_stored_is_read_back_and_signs_as_before() {
    let authority = Authority::make(now()).unwrap();
    let read = Authority::read(authority.certified().clone()).unwrap();
    let leaf = read.issue(&Identity::Operator, now()).unwrap();
    assert!(!authority.must_issue(&leaf, &Identity::Operator, now()));
}

#[test]
fn what_was_stored_and_is_no_authority_is_an_error_that_names_no_key() {
    let (one, other) = (Authority::make(now()).unwrap(), Authority::make(now()).unwrap());
    let mixed = Certified { certificate: one.certified().certificate.clone(), key: other.certified().key.clone() };
    assert!(matches!(Authority::read(mixed), Err(CertificateError::OtherKey)));
    let canary = Certified { key: "canary".into(), ..one.certified().clone() };
    let error = Authority::read(canary).unwrap_err();
    assert!(matches!(error, CertificateError::ReadKey));
    assert!(!format!("{error} {error:?}").contains("canary"));
    let canary = Certified { certificate: "canary".to_owned(), ..one.certified().clone() };
    assert!(matches!(Authority::read(canary), Err(CertificateError::Read)));
}

#[test]
fn no_key_is_in_anything_that_is_printed() {
    let authority = Authority::make(now()).unwrap();
    let leaf = authority.issue(&gateway(), now()).unwrap();
    for certified in [authority.certified(), &leaf] {
        let key = certified.key.expose_secret();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        let line = key.lines().nth(1).unwrap();
        for printed in [format!("{authority:?}"), format!("{authority:#?}"), format!("{certified:?}"), format!("{certified:#?}")] {
            assert!(!printed.contains(line) && !printed.contains("PRIVATE"), "{printed}");
        }
    }
}

#[rstest]
#[case::new(0, true, gateway(), false)]
#[case::before_two_thirds(59, true, gateway(), false)]
#[case::after_two_thirds(61, true, gateway(), true)]
#[case::of_another_authority(0, false, gateway(), true)]
#[case::of_another_namespace(0, true, Identity::Gateway { namespace: "other".to_owned() }, true)]
#[case::of_a_gateway_for_the_operator(0, true, Identity::Operator, true)]
fn a_certificate_is_made_anew(#[case] after: i64, #[case] same: bool, #[case] wanted: Identity, #[case] anew: bool) {
    let authority = Authority::make(now()).unwrap();
    let leaf = authority.issue(&gateway(), now()).unwrap();
    let asked = if same { authority } else { Authority::make(now()).unwrap() };
    assert_eq!(asked.must_issue(&leaf, &wanted, now() + days(after)), anew);
}

#[test]
fn a_stored_certificate_that_cannot_be_used_is_made_anew() {
    let authority = Authority::make(now()).unwrap();
    let (one, other) = (authority.issue(&gateway(), now()).unwrap(), authority.issue(&gateway(), now()).unwrap());
    for odd in [
        Certified { key: other.key.clone(), ..one.clone() },
        Certified { key: "".into(), ..one.clone() },
        Certified { certificate: String::new(), ..one.clone() },
    ] {
        assert!(authority.must_issue(&odd, &gateway(), now()));
    }
}

#[test]
fn a_clock_that_no_certificate_can_name_is_an_error() {
    assert!(matches!(Authority::make(Timestamp::from_second(-1).unwrap()), Err(CertificateError::Time)));
    assert!(matches!(Authority::make(Timestamp::MAX), Err(CertificateError::Time)));
}
