"""What is carried to pods, services and nodes, and logs and watches over WebSocket.

Run by tests/proxies.rs against a cluster with the pod and Service `web`: a page server on 8080 and,
on 9000, one that answers with the request it was sent or takes an upgraded connection over and
sends everything back. The cluster is that of KUBECONFIG.
"""

import base64
import http.client
import json
import ssl
import time

import websocket
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

config.load_kube_config()
api = client.CoreV1Api()
settings = api.api_client.configuration
server = settings.host.removeprefix("https://")
tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
tls.load_cert_chain(settings.cert_file, settings.key_file)
POD = "/api/v1/namespaces/default/pods/"
SERVICE = "/api/v1/namespaces/default/services/"


def ask(method, path, body=None, headers={}):
    connection = http.client.HTTPSConnection(server, context=tls, timeout=30)
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def status(path):
    answer, text = ask("GET", path)
    return answer.status, json.loads(text)["message"]


def requests():
    page = api.connect_get_namespaced_pod_proxy_with_path("web:8080", "default", "index.html")
    assert page == "from the pod\n", page
    for name in ["web", "web:", "web:pages", "web:8080", "http:web:pages"]:
        answer, text = ask("GET", f"{POD}{name}/proxy/index.html")
        assert (answer.status, text) == (200, "from the pod\n"), (name, answer.status, text)
    for name in ["web:pages", "web:80", "http:web:pages"]:
        answer, text = ask("GET", f"{SERVICE}{name}/proxy/index.html")
        assert (answer.status, text) == (200, "from the pod\n"), (name, answer.status, text)

    headers = {"Cookie": "kept=1", "X-Own": "kept"}
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"]:
        body = None if method == "GET" else "what is sent"
        answer, text = ask(method, f"{POD}web:9000/proxy/a%20b//c?d=e&f=%2F", body, headers)
        head, said = text.split("\n\n", 1)
        lines = head.lower().split("\n")
        assert lines[0] == f"{method.lower()} /a%20b/c?d=e&f=%2f http/1.1", lines
        assert "cookie: kept=1" in lines and "x-own: kept" in lines, lines
        assert said == (body or ""), text

    # Who the caller is, the pod does not learn to be.
    token = api.create_namespaced_service_account_token("asker", "default", {"spec": {}}).status.token
    bare = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    connection = http.client.HTTPSConnection(server, context=bare, timeout=30)
    connection.request("GET", f"{POD}web:9000/proxy/", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200 and "authorization" not in text.lower() and token not in text, text

    answer, _ = ask("HEAD", f"{POD}web:8080/proxy/index.html")
    assert answer.status == 200, answer.status
    answer, _ = ask("GET", f"{POD}web:8080/proxy?a=b")
    assert (answer.status, answer.getheader("Location")) == (301, f"{POD}web:8080/proxy/?a=b")
    answer, text = ask("GET", f"{POD}web:8080/proxy/links.html")
    assert f'href="{POD}web:8080/proxy/other"' in text and 'href="beside"' in text, text
    # JSON of a pod is its own affair, also for those who get the server's indented.
    answer, text = ask("GET", f"{POD}web:8080/proxy/data.json", headers={"User-Agent": "curl/8"})
    assert text == '{"a":1}', text


def refusals():
    assert status(f"{POD}nobody/proxy/")[0] == 404
    assert status(f"{POD}web:nope/proxy/") == (400, 'invalid port "nope"')
    code, text = status(f"{POD}web:9/proxy/")
    assert code == 503 and "connect: connection refused" in text, text
    assert status(f"{SERVICE}web:81/proxy/") == (503, 'no service port 81 found for service "web"')
    assert status(f"{SERVICE}empty/proxy/") == (503, 'no endpoints available for service "empty"')
    # An address that somebody wrote is no pod's.
    assert status(f"{SERVICE}written/proxy/")[0] == 503
    node = api.list_node().items[0].metadata.name
    answer, text = ask("GET", f"/api/v1/nodes/{node}/proxy/healthz")
    assert (answer.status, text) == (200, "ok"), (answer.status, text)
    assert status(f"/api/v1/nodes/{node}:22/proxy/")[0] == 400


def socket(path, *protocols):
    made = websocket.WebSocket(sslopt={"context": tls})
    made.connect(f"wss://{server}{path}", subprotocols=list(protocols), timeout=30)
    return made


def upgraded():
    connection = http.client.HTTPSConnection(server, context=tls, timeout=30)
    connection.putrequest("GET", f"{POD}web:9000/proxy/")
    connection.putheader("Connection", "Upgrade")
    connection.putheader("Upgrade", "echo")
    connection.endheaders()
    stream = connection.sock
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += stream.recv(4096)
    assert seen.startswith(b"HTTP/1.1 101"), seen
    stream.sendall(b"there and back")
    back = seen.split(b"\r\n\r\n", 1)[1]
    while len(back) < len(b"there and back"):
        back += stream.recv(4096)
    assert back == b"there and back", back
    stream.close()


def streams():
    log = socket(f"{POD}web/log?container=says", "base64.binary.k8s.io")
    assert log.getsubprotocol() == "base64.binary.k8s.io"
    said = b""
    while not said.endswith(b"said\n"):
        said += base64.b64decode(log.recv())
    assert said == b"this is said\n", said
    log.close()

    name = f"seen-{time.time_ns()}"
    version = api.list_namespaced_config_map("default").metadata.resource_version
    watch = socket(f"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={version}")
    api.create_namespaced_config_map("default", {"metadata": {"name": name}})
    event = json.loads(watch.recv())
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", name), event
    watch.close()


requests()
refusals()
upgraded()
streams()
print("all is well")
