//! Hostnames of one's own, from the command line to the answer.

use crate::support::{App, Installation, eventually, text};

const NAME: &str = "www.example.com";

fn answers(here: &Installation, body: &str) {
    eventually(&format!("{NAME} answers `{body}`"), || {
        (here.get(NAME, "/").body == body).then_some(())
    });
}

#[test]
fn a_custom_domain_serves_what_is_live_until_it_is_removed() {
    let here = Installation::start();
    let early = here.run(&["domains", "add", NAME, "--project", "shop"]);
    assert_eq!(early.status.code(), Some(9), "{}", text(&early));
    assert!(text(&early).contains("nothing is live"), "{}", text(&early));
    let app = App::new("version one", "");
    here.deploy(app.path(), &["--project", "shop"]);
    let wrong = here.run(&["domains", "add", "https://example.com/", "--project", "shop"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("without scheme"), "{}", text(&wrong));
    let added = here.json(&["domains", "add", "WWW.Example.com.", "--project", "shop"]);
    assert_eq!(added["domain"]["name"], NAME, "{added:#}");
    answers(&here, "version one");
    app.greet("version two");
    let second = here.deploy(app.path(), &["--project", "shop"]);
    assert!(second["domains"].as_array().unwrap().contains(&NAME.into()), "{second:#}");
    assert_eq!(here.get(NAME, "/").body, "version two", "it moves with the environment");
    let back = here.run(&["rollback", "--project", "shop"]);
    assert!(back.status.success(), "{}", text(&back));
    assert_eq!(here.get(NAME, "/").body, "version one");
    let listed = here.json(&["domains", "list", "--project", "shop"]);
    let kinds: Vec<_> =
        listed["domains"].as_array().unwrap().iter().map(|it| &it["kind"]).collect();
    for (kind, count) in [("commit", 2), ("branch", 1), ("environment", 1), ("live", 1)] {
        assert_eq!(kinds.iter().filter(|found| **found == kind).count(), count, "{listed:#}");
    }
    assert!(here.run(&["domains", "remove", NAME]).status.success());
    eventually("it is unknown again", || (here.get(NAME, "/").status == 404).then_some(()));
    assert_eq!(here.run(&["domains", "remove", NAME]).status.code(), Some(9));
}
