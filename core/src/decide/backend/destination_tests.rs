use super::*;

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules() -> Rules {
    Rules {
        service_namespaces: vec!["shared".into()],
        cluster_domains: vec!["corp.internal".into()],
        api_server: ApiServer::At(addresses(&["10.96.0.1", "2001:db8::1"])),
        own_addresses: addresses(&["10.1.2.3", "2001:db8::3"]),
        ..Rules::default()
    }
}

#[test]
fn addresses_of_the_machine_the_link_the_cloud_the_api_server_and_the_operator_are_refused() {
    use AddressRule::*;
    let table = [
        ("127.0.0.1", Loopback),
        ("127.255.255.254", Loopback),
        ("::1", Loopback),
        ("::ffff:127.0.0.1", Loopback),
        ("::127.0.0.1", Loopback),
        ("64:ff9b::7f00:1", Loopback),
        ("2002:7f00:1::", Loopback),
        ("169.254.0.1", LinkLocal),
        ("169.254.255.255", LinkLocal),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("::ffff:169.254.1.1", LinkLocal),
        ("169.254.169.254", Metadata),
        ("::ffff:169.254.169.254", Metadata),
        ("::ffff:0:169.254.169.254", Metadata),
        ("64:ff9b::169.254.169.254", Metadata),
        ("64:ff9b:1::169.254.169.254", Metadata),
        ("2002:a9fe:a9fe::1", Metadata),
        ("2001:0:1::5601:5601", Metadata),
        ("100.100.100.200", Metadata),
        ("168.63.129.16", Metadata),
        ("fd00:ec2::254", Metadata),
        ("fd20:ce::254", Metadata),
        ("0.0.0.0", Unspecified),
        ("0.1.2.3", Unspecified),
        ("::", Unspecified),
        ("::ffff:0.0.0.0", Unspecified),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("ff02::1", Multicast),
        ("255.255.255.255", Broadcast),
        ("240.0.0.1", Broadcast),
        ("::ffff:255.255.255.255", Broadcast),
        ("10.96.0.1", ApiServer),
        ("::ffff:10.96.0.1", ApiServer),
        ("2001:db8::1", ApiServer),
        ("10.1.2.3", Own),
        ("::ffff:10.1.2.3", Own),
        ("2001:db8::3", Own),
    ];
    for (address, rule) in table {
        assert_eq!(rules().check_address(address.parse().unwrap()), Err(rule), "{address}");
    }
}

#[test]
fn public_and_private_addresses_are_allowed() {
    for address in
        ["1.1.1.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.253.255.255", "2606:4700::1111", "fd12::1", "::ffff:8.8.8.8"]
    {
        assert_eq!(rules().check_address(address.parse().unwrap()), Ok(()), "{address}");
    }
}

#[test]
fn the_development_flag_lifts_loopback_and_nothing_else() {
    let rules = Rules {
        allow_loopback: true,
        api_server: ApiServer::At(addresses(&["127.0.0.1"])),
        own_addresses: addresses(&["127.0.0.1"]),
        ..rules()
    };
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(rules.check_address(address.parse().unwrap()), Ok(()), "{address}");
    }
    for address in ["169.254.169.254", "0.0.0.0", "fe80::1", "::"] {
        assert!(rules.check_address(address.parse().unwrap()).is_err(), "{address}");
    }
    assert_eq!(rules.check_name("localhost", "team"), Ok(Host::Loopback("localhost".into())));
}

#[test]
fn while_it_is_not_known_where_the_api_server_is_nothing_is_reached_and_the_error_says_what_is_awaited() {
    let rules = Rules { allow_loopback: true, ..Rules::default() };
    for address in ["1.1.1.1", "10.0.0.1", "2606:4700::1111", "127.0.0.1"] {
        let error = rules.check_addresses("api.example.com", &addresses(&[address])).unwrap_err();
        assert!(matches!(error, DestinationError::AwaitApiServer { .. }), "{address}: {error}");
        let message = error.to_string();
        for words in ["`api.example.com` is not called yet", "API server", "EndpointSlices of the Service kubernetes"] {
            assert!(message.contains(words), "{message}");
        }
    }
    let error = rules.check_addresses("cloud.example.com", &addresses(&["169.254.169.254"])).unwrap_err();
    assert!(matches!(error, DestinationError::RefuseAddress { .. }), "what is forbidden anyway stays so: {error}");
}

#[test]
fn the_api_server_is_where_its_names_its_service_and_its_endpoints_are_once_all_are_known() {
    let endpoints = addresses(&["10.0.0.7", "10.0.0.8"]);
    let mut called =
        BTreeMap::from([("10.96.0.1".to_owned(), Some(addresses(&["10.96.0.1"]))), ("api.cluster.example".to_owned(), None)]);
    let awaited = |known: ApiServer| match known {
        ApiServer::Unknown { awaited } => awaited,
        ApiServer::At(addresses) => panic!("{addresses:?}"),
    };
    assert!(awaited(ApiServer::of(&called, None)).contains("EndpointSlices"));
    assert_eq!(awaited(ApiServer::of(&called, Some(&endpoints))), "its name api.cluster.example could not be looked up");
    called.insert("api.cluster.example".to_owned(), Some(addresses(&["198.51.100.4", "10.0.0.7"])));
    let all = addresses(&["10.0.0.7", "10.0.0.8", "10.96.0.1", "198.51.100.4"]);
    assert_eq!(ApiServer::of(&called, Some(&endpoints)), ApiServer::At(all));
}

#[test]
fn the_api_servers_own_service_is_refused_by_name_from_its_own_namespace_too() {
    for name in ["kubernetes", "kubernetes.default.svc", "Kubernetes.default.svc.", "kubernetes.default.svc.corp.internal"] {
        let error = rules().check_name(name, "default").unwrap_err().to_string();
        assert!(error.contains("the name belongs to the API server"), "{name}: {error}");
    }
    assert_eq!(rules().check_name("ollama", "default"), Ok(Host::Service("ollama.default.svc".into())));
    assert_eq!(rules().check_name("kubernetes", "team"), Ok(Host::Service("kubernetes.team.svc".into())));
}

#[test]
fn one_forbidden_address_spoils_a_name_and_the_error_says_which_and_why() {
    let addresses = ["1.1.1.1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let error = rules().check_addresses("two.example.com", &addresses).unwrap_err();
    assert_eq!(error.to_string(), "refuse `two.example.com`: 127.0.0.1 is a loopback address");
}

#[test]
fn names_are_services_of_the_own_namespace_or_hosts_outside() {
    let service = |name: &str| Ok(Host::Service(name.into()));
    let table = [
        ("ollama", service("ollama.team.svc")),
        ("Ollama", service("ollama.team.svc")),
        ("ollama.", service("ollama.team.svc")),
        ("ollama.team.svc", service("ollama.team.svc")),
        ("pod-0.ollama.team.svc", service("pod-0.ollama.team.svc")),
        ("ollama.team.svc.cluster.local", service("ollama.team.svc.cluster.local")),
        ("ollama.team.svc.corp.internal.", service("ollama.team.svc.corp.internal")),
        ("models.shared.svc", service("models.shared.svc")),
        ("api.openai.com", Ok(Host::External("api.openai.com".into()))),
        ("ollama.payments", Ok(Host::External("ollama.payments".into()))),
        ("index.svc.region.example.com", Ok(Host::External("index.svc.region.example.com".into()))),
    ];
    for (name, expected) in table {
        assert_eq!(rules().check_name(name, "team"), expected, "{name}");
    }
}

#[test]
fn names_of_other_namespaces_of_metadata_services_and_of_this_machine_are_refused() {
    let table = [
        ("ollama.payments.svc", "Services of namespace `payments` may not be named from `team`"),
        ("ollama.payments.svc.", "Services of namespace `payments` may not be named from `team`"),
        ("OLLAMA.PAYMENTS.SVC.cluster.local", "Services of namespace `payments` may not be named from `team`"),
        ("kubernetes.default.svc", "the name belongs to the API server"),
        ("a.b.payments.svc.corp.internal", "Services of namespace `payments` may not be named from `team`"),
        ("10-0-0-1.payments.pod.cluster.local", "the name belongs to the cluster, but to no Service"),
        ("payments.svc", "the name belongs to the cluster, but to no Service"),
        ("localhost", "the name belongs to this machine"),
        ("x.localhost.", "the name belongs to this machine"),
        ("metadata.google.internal", "the name belongs to a metadata service"),
        ("Metadata.Google.Internal.", "the name belongs to a metadata service"),
        ("a..b", "it has no host"),
    ];
    for (name, message) in table {
        let error = rules().check_name(name, "team").unwrap_err().to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
}

#[test]
fn the_clusters_domain_is_read_from_resolv_conf() {
    let text = "nameserver 10.96.0.10\nsearch team.svc.corp.internal svc.corp.internal corp.internal\noptions ndots:5\n";
    assert_eq!(cluster_domains(text), ["corp.internal"]);
    assert_eq!(cluster_domains("nameserver 1.1.1.1\n"), Vec::<String>::new());
}

#[test]
fn hosts_bypass_the_proxy_as_no_proxy_says() {
    let list: Vec<String> = ["example.com", ".corp.com", "10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(str::to_owned).into();
    for host in ["example.com", "api.Example.com", "a.corp.com", "10.1.2.3", "192.0.2.7", "[fd00::1]", "example.com."] {
        assert!(bypasses_proxy(&list, host), "{host}");
    }
    for host in ["notexample.com", "corp.com", "11.0.0.1", "192.0.2.8", "api.openai.com", "[fe00::1]"] {
        assert!(!bypasses_proxy(&list, host), "{host}");
    }
    assert!(bypasses_proxy(&["*".to_owned()], "api.openai.com"));
    assert!(!bypasses_proxy(&[String::new()], "api.openai.com"));
}
