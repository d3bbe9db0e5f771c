//! From the model that a client asks for to the route that answers.

use crate::decide::gateway::plan::{Caller, Plan, Route};

/// The alias that stands for every name that no route of the namespace has.
const ANY: &str = "*";

/// Why no route answers a model name. A client hears the same in both cases: the model does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No route has the name.
    #[error("no route has this model name, and none that the caller may call has the alias \"*\"")]
    Unknown,
    /// A route has it that the caller may not call. It does not fall to a route with "*" then: that would answer with another
    /// model than the one that the name means in this namespace.
    #[error("the route {0} has this model name, and the caller may not call it")]
    NotAllowed(String),
}

/// The route that answers a caller who asks for a model, with its name.
///
/// # Errors
///
/// When no route answers.
pub fn route_of<'a>(plan: &'a Plan, caller: &Caller, model: &str) -> Result<(&'a str, &'a Route), NoRoute> {
    let named = || plan.routes.iter().map(|(name, route)| (name.as_str(), route));
    let may_call = |name: &str| caller.routes.contains(name);
    let owner = named().find(|(_, route)| route.model_name == model);
    let owner = owner.or_else(|| named().find(|(_, route)| model != ANY && route.aliases.contains(model)));
    match owner {
        Some((name, route)) if may_call(name) => Ok((name, route)),
        Some((name, _)) => Err(NoRoute::NotAllowed(name.to_owned())),
        None => named().find(|(name, route)| route.aliases.contains(ANY) && may_call(name)).ok_or(NoRoute::Unknown),
    }
}

/// The names that a caller may ask for, sorted, each once: what `GET /v1/models` lists. "*" is not a name.
pub fn models<'a>(plan: &'a Plan, caller: &Caller) -> Vec<&'a str> {
    let routes = caller.routes.iter().filter_map(|name| plan.routes.get(name));
    let names = routes.flat_map(|route| std::iter::once(&route.model_name).chain(&route.aliases)).map(String::as_str);
    let mut names: Vec<&str> = names.filter(|name| *name != ANY).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::decide::request::fixtures;

    fn plan() -> Plan {
        let route = |model: &str, aliases: &[&str]| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            Route { model_name: model.to_owned(), aliases, ..fixtures::route(&[]) }
        };
        let routes =
            [("smart-router", route("smart", &["gpt-4o"])), ("rest", route("rest", &["*"])), ("secret", route("secret", &["o3"]))];
        Plan { routes: routes.map(|(name, route)| (name.to_owned(), route)).into(), ..Plan::default() }
    }

    fn caller(routes: &[&str]) -> Caller {
        Caller { routes: routes.iter().map(|route| (*route).to_owned()).collect(), ..Caller::default() }
    }

    #[rstest]
    #[case("smart", Ok("smart-router"))]
    #[case("gpt-4o", Ok("smart-router"))]
    #[case("rest", Ok("rest"))]
    #[case("claude-sonnet-4", Ok("rest"))]
    #[case("*", Ok("rest"))]
    #[case("smart-router", Ok("rest"))]
    #[case("secret", Err(NoRoute::NotAllowed("secret".to_owned())))]
    #[case("o3", Err(NoRoute::NotAllowed("secret".to_owned())))]
    fn a_model_name_or_alias_leads_to_its_route_and_any_other_name_to_the_star(
        #[case] model: &str,
        #[case] route: Result<&str, NoRoute>,
    ) {
        let plan = plan();
        assert_eq!(route_of(&plan, &caller(&["smart-router", "rest", "vanished"]), model).map(|(name, _)| name), route);
    }

    #[test]
    fn without_a_star_that_the_caller_may_call_an_unknown_name_has_no_route() {
        assert_eq!(route_of(&plan(), &caller(&["smart-router"]), "claude").map(|(name, _)| name.to_owned()), Err(NoRoute::Unknown));
        assert_eq!(route_of(&plan(), &caller(&[]), "*").map(|(name, _)| name.to_owned()), Err(NoRoute::Unknown));
    }

    #[test]
    fn a_caller_sees_the_names_of_its_own_routes_only() {
        assert_eq!(models(&plan(), &caller(&["smart-router", "rest", "vanished"])), ["gpt-4o", "rest", "smart"]);
        assert_eq!(models(&plan(), &caller(&[])), [""; 0]);
    }
}
