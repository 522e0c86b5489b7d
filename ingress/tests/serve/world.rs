//! An ingress under test with the API it follows, and the objects tests put into that.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proa_ingress::{Config, Ingress, Limits};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::client;

/// How long anything may take before a test calls it broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct World {
    pub api: Api,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<()>,
}

impl World {
    /// An ingress whose class and `objects` are there before it starts.
    pub async fn start(objects: &[Value]) -> World {
        Self::start_with(objects, Limits::default(), Api::new()).await
    }

    pub async fn start_with(objects: &[Value], limits: Limits, api: Api) -> World {
        api.put(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "proa"}, "spec": {"controller": "proa.dev/ingress"}}));
        for object in objects {
            api.put(object);
        }
        let any = "127.0.0.1:0".parse().unwrap();
        let default_certificate = Some(("ns".to_owned(), "default".to_owned()));
        let config = Config { http: any, https: any, ranges: None, default_certificate };
        let ingress = Ingress::bind(&config).await.unwrap().with_limits(limits);
        let (http, https) = ingress.addresses().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(ingress.run(api.client(), shutdown.clone()));
        World { api, http, https, shutdown, served }
    }

    /// The same, and the routes are known.
    pub async fn routed(objects: &[Value]) -> World {
        let world = World::start(objects).await;
        world.wait_for_routes().await;
        world
    }

    /// The same where a rule covers every host.
    pub async fn routed_by(objects: &[Value]) -> World {
        let world = World::start(objects).await;
        until("routes", || async { client::get(world.http, "any.example", "/").await.status == 200 }).await;
        world
    }

    pub async fn wait_for_routes(&self) {
        until("routes", || async { client::get(self.http, "unknown.test", "/").await.status == 404 }).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Waits until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the future, which must not take long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// An Ingress of the class `proa` with one rule for everything under `/` of a host.
pub fn ingress(host: &str, service: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "ns", "name": host.replace('*', "any")},
        "spec": {"ingressClassName": "proa", "rules": [{"host": host, "http": {"paths": [
            {"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": service, "port": {"number": 80}}}}]}}]}})
}

pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name},
        "spec": {"ports": [{"port": 80}]}})
}

/// A slice with one ready endpoint.
pub fn slice(service: &str, endpoint: SocketAddr) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "ns", "name": format!("{service}-{}", endpoint.port()),
            "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": endpoint.port()}],
        "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}]})
}

/// All it takes to reach `endpoints` under `host`.
pub fn route(host: &str, endpoints: &[SocketAddr]) -> Vec<Value> {
    let name = host.replace(['.', '*'], "-");
    let mut objects = vec![ingress(host, &name), service(&name)];
    objects.extend(endpoints.iter().map(|endpoint| slice(&name, *endpoint)));
    objects
}
