//! Who reaches whom.

use launchway_proto::krane::v1::DeploymentRequest;

use crate::world::World;

fn named(world: &World<'_>, name: &str) -> DeploymentRequest {
    let service_name = name.to_owned();
    DeploymentRequest { service_name, ..world.scripted(crate::image::SERVE) }
}

pub async fn a_namespace_reaches_its_services_by_name_and_no_other_does(world: &World<'_>) {
    let other = world.elsewhere();
    let (shop, cart) = (named(world, "shop"), named(world, "cart"));
    let stranger = named(&other, "stranger");
    tokio::join!(world.deploy(&shop), world.deploy(&cart), other.deploy(&stranger));
    // Without its own `-T`, with which a static busybox crashes on names.
    let ask = "/busybox timeout 3 /busybox wget -q -O - http://shop:8080/";
    let inside = world.exec(&cart.deployment_id, ask).await;
    assert_eq!((inside.stdout.trim(), inside.exit_code), ("hello", Some(0)), "{inside:?}");
    let outside = other.exec(&stranger.deployment_id, ask).await;
    assert_ne!(outside.exit_code, Some(0), "{outside:?}");
    // Nor by address.
    let address = world.exec(&shop.deployment_id, "/busybox hostname -i").await;
    let address = address.stdout.split_whitespace().next().unwrap_or_default().to_owned();
    let ask = format!("/busybox timeout 2 /busybox wget -q -O - http://{address}:8080/");
    let inside = world.exec(&cart.deployment_id, &ask).await;
    assert_eq!(inside.stdout.trim(), "hello", "{address} is the service's: {inside:?}");
    let outside = other.exec(&stranger.deployment_id, &ask).await;
    assert_ne!(outside.exit_code, Some(0), "{outside:?}");
    other.clean_up().await;
}
