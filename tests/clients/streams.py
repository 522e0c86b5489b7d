"""exec, attach, tar through exec and port-forward with two Python clients, each as its users write it.

Run by tests/exec.rs against a cluster with the pods `box` (a web server on 8080, nobody on 8081) and
`reader` (cat). The cluster is that of KUBECONFIG.
"""

import asyncio
import http.client
import io
import tarfile
import time

import kr8s.asyncio
from kubernetes import client, config
from kubernetes.stream import portforward, stream


def official():
    config.load_kube_config()
    api = client.CoreV1Api()

    def talk(command, **options):
        return stream(api.connect_get_namespaced_pod_exec, "box", "default", command=command, **options)

    # As most programs do: what it printed, as one text.
    said = talk(["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True, stdin=False, tty=False)
    assert sorted(said.split()) == ["err", "out"], said

    # Input that ends, and an exit code.
    talking = talk(["sh", "-c", "wc -c; exit 7"], stdin=True, stdout=True, stderr=True, tty=False,
                   _preload_content=False)
    talking.write_stdin("hello")
    assert talking.subprotocol == "v5.channel.k8s.io", talking.subprotocol
    talking.close_channel(0)
    talking.run_forever(timeout=20)
    assert talking.read_stdout().strip() == "5"
    assert talking.returncode == 7, talking.returncode

    # A directory, as `cp` sends it.
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("copied")
        entry.size = 200_000
        archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    talking = talk(["tar", "xf", "-", "-C", "/tmp"], stdin=True, stdout=True, stderr=True, tty=False,
                   _preload_content=False, binary=True)
    talking.write_stdin(packed.getvalue())
    talking.close_channel(0)
    talking.run_forever(timeout=20)
    assert talking.returncode == 0, talking.read_stderr()
    back = talk(["tar", "cf", "-", "-C", "/tmp", "copied"], stdin=False, stdout=True, stderr=True, tty=False,
                _preload_content=False, binary=True)
    back.run_forever(timeout=20)
    with tarfile.open(fileobj=io.BytesIO(back.read_stdout()), mode="r") as archive:
        assert archive.getmember("copied").size == 200_000

    attached = stream(api.connect_get_namespaced_pod_attach, "reader", "default", stdin=True, stdout=True,
                      stderr=True, tty=False, _preload_content=False)
    attached.write_stdin("from python\n")
    assert attached.readline_stdout(timeout=20) == "from python"
    attached.close()

    # Several ports of one connection; on one of them nobody listens.
    forwarded = portforward(api.connect_get_namespaced_pod_portforward, "box", "default", ports="8080,8081")
    web = http.client.HTTPConnection("box")
    web.sock = forwarded.socket(8080)
    web.request("GET", "/index.html", headers={"Host": "box"})
    assert web.getresponse().read() == b"from the container\n"
    deadline = time.time() + 20
    while forwarded.error(8081) is None and time.time() < deadline:
        time.sleep(0.05)
    assert "connect: connection refused" in forwarded.error(8081), forwarded.error(8081)
    forwarded.close()


async def of_others():
    box = await kr8s.asyncio.objects.Pod.get("box")
    said = await box.exec(["sh", "-c", "echo out; echo err >&2"])
    assert (said.stdout, said.stderr, said.returncode) == (b"out\n", b"err\n", 0), said
    said = await box.exec(["sh", "-c", "exit 3"], check=False)
    assert said.returncode == 3, said
    async with box.portforward(remote_port=8080) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.endswith(b"from the container\n"), answer
        writer.close()


official()
asyncio.run(of_others())
print("all is well")
