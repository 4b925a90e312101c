#!/usr/bin/python3
"""Does what the documentation of docker-py does: client.py IMAGE CONTEXT.

It prints a line for each subject, and ends with an exception at the first thing
that is not as Docker does it.
"""
import io
import socket
import struct
import sys
import tarfile
import threading
import time

import docker

IMAGE, CONTEXT = sys.argv[1:]
client = docker.from_env(timeout=60)
low = client.api


def equal(got, want):
    assert got == want, "%r, not %r" % (got, want)


def raises(error, fn, *args, **kwargs):
    try:
        fn(*args, **kwargs)
    except error as e:
        return e
    raise AssertionError("%s raises no %s" % (fn, error.__name__))


def runs(c, command):
    end = time.monotonic() + 20
    while not any(p[-1].startswith(command) for p in c.top()["Processes"]):
        assert time.monotonic() < end, "%s does not run: %r" % (command, c.top())
        time.sleep(0.01)


def archive(name, content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def engine():
    assert client.ping()
    assert client.version()["ApiVersion"] >= "1.51"
    assert client.info()["OSType"] == "linux"
    assert "ImageUsage" in client.df() or "ImagesUsage" in client.df(), client.df()  # as from 1.53 on


def containers():
    equal(client.containers.run(IMAGE, ["echo", "hello"], remove=True), b"hello\n")
    e = raises(docker.errors.ContainerError, client.containers.run, IMAGE, "sh -c 'echo no >&2; exit 3'", remove=True)
    equal((e.exit_status, e.stderr), (3, b"no\n"))
    raises(docker.errors.ImageNotFound, client.containers.create, "localhost:1/nothing@sha256:" + 64 * "0")
    raises(docker.errors.NotFound, client.containers.get, "nobody")
    c = client.containers.run(
        IMAGE, "sleep infinity", detach=True, init=True, name="py", hostname="pyhost", labels={"of": "py"},
        environment={"WORD": "seven"}, mem_limit="64m", nano_cpus=10**9, pids_limit=50, cap_drop=["ALL"],
        tmpfs={"/scratch": "size=1m"}, ports={"80/tcp": ("127.0.0.1", None)}, extra_hosts={"far": "192.0.2.7"},
        ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], read_only=True,
        healthcheck={"test": ["CMD", "true"], "interval": 10**9},
        log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}),
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    equal([x.name for x in client.containers.list(filters={"label": "of=py"})], ["py"])
    code, out = c.exec_run(["sh", "-c", "echo $WORD $(hostname) $(ulimit -n); echo trouble >&2; exit 4"], demux=True)
    equal((code, out), (4, (b"seven pyhost 100\n", b"trouble\n")))
    equal(b"".join(c.exec_run("seq 3", stream=True).output), b"1\n2\n3\n")
    c.reload()
    assert c.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    assert any("sleep" in p[-1] for p in c.top()["Processes"])
    stats = c.stats(stream=False)
    assert stats["memory_stats"]["limit"] == 64 << 20 and stats["cpu_stats"]["online_cpus"] > 0
    equal(next(c.stats(decode=True))["name"], "/py")
    c.pause()
    c.reload()
    equal(c.status, "paused")
    c.unpause()
    c.update(mem_limit="32m", memswap_limit="32m")
    c.rename("renamed")
    c.reload()
    equal((c.name, c.attrs["HostConfig"]["Memory"]), ("renamed", 32 << 20))
    c.restart(timeout=1)
    runs(c, "sleep")  # until init has its child, it may not hear a signal yet
    c.stop(timeout=10)
    equal(c.wait()["StatusCode"], 143)
    c.start()
    c.kill()
    equal(c.wait(condition="not-running")["StatusCode"], 137)
    c.remove(v=True)
    equal(client.containers.list(all=True), [])


def logs():
    c = client.containers.run(IMAGE, "sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done; echo end >&2'", detach=True)
    equal(b"".join(c.logs(stream=True, follow=True)), b"1\n2\n3\nend\n")
    c.wait()
    equal(c.logs(stdout=False), b"end\n")
    equal(c.logs(stderr=False, tail=1), b"3\n")
    assert c.logs(timestamps=True, tail=1).startswith(b"20")
    c.remove()


def attach():
    for tty in (False, True):
        c = client.containers.create(IMAGE, "sh -c 'read x; echo got $x'", stdin_open=True, tty=tty)
        s = c.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        c.start()
        s._sock.sendall(b"word\n")
        s._sock.shutdown(socket.SHUT_WR)
        got = b""
        while True:
            part = s._sock.recv(4096)
            if not part:
                break
            got += part
        if not tty:
            equal(struct.unpack(">BxxxL", got[:8]), (1, len("got word\n")))
        assert got.endswith(b"got word\r\n" if tty else b"got word\n"), got
        c.remove(force=True)
    c = client.containers.create(IMAGE, "echo attached")
    stream = c.attach(stream=True)
    c.start()
    equal(b"".join(stream), b"attached\n")
    c.wait()
    c.remove()


def files():
    c = client.containers.create(IMAGE, "cat /tmp/f")
    assert c.put_archive("/tmp", archive("f", b"put"))
    c.start()
    c.wait()
    equal(c.logs(), b"put")
    chunks, stat = c.get_archive("/tmp/f")
    equal((stat["name"], stat["size"]), ("f", 3))
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        equal(tar.extractfile("f").read(), b"put")
    assert {"Path": "/tmp/f", "Kind": 1} in c.diff()
    raises(docker.errors.NotFound, c.get_archive, "/nothing")
    image = c.commit("py/committed", "v1", message="by py", changes="ENV A=b")
    assert "A=b" in image.attrs["Config"]["Env"]
    assert sum(len(x) for x in c.export()) > 1 << 20
    c.remove()
    client.images.remove("py/committed:v1")


def images():
    image = client.images.pull(IMAGE, "latest")
    assert IMAGE + ":latest" in image.tags
    equal(client.images.get(IMAGE).id, image.id)
    assert image.history()
    assert image.tag("py/tagged", "v2")
    saved = b"".join(client.images.get("py/tagged:v2").save(named=True))
    client.images.remove("py/tagged:v2")
    raises(docker.errors.ImageNotFound, client.images.get, "py/tagged:v2")
    equal([sorted(x.tags) for x in client.images.load(saved)], [sorted(image.tags + ["py/tagged:v2"])])
    last = list(client.images.push(IMAGE, "latest", stream=True, decode=True))[-1]
    assert "error" not in last, last
    client.images.remove("py/tagged:v2")
    assert client.images.get_registry_data(IMAGE).id.startswith("sha256:")
    raises(docker.errors.NotFound, client.images.pull, IMAGE + "-not", "there")
    client.images.prune()


def build():
    image, said = client.images.build(path=CONTEXT, tag="py/built", rm=True, buildargs={"REGISTRY": IMAGE.split("/")[0]})
    assert any("Successfully built" in line.get("stream", "") for line in said)
    equal(client.containers.run("py/built", "cat /built", remove=True), b"one\n")
    client.images.remove("py/built")
    e = raises(docker.errors.BuildError, client.images.build, fileobj=io.BytesIO(b"FROM " + IMAGE.encode() + b"\nRUN exit 7\n"))
    assert "7" in e.msg, e.msg
    client.api.prune_builds()


def networks():
    n = client.networks.create("pynet", driver="bridge", ipam=docker.types.IPAMConfig(
        pool_configs=[docker.types.IPAMPool(subnet="10.94.1.0/24", gateway="10.94.1.1")]), labels={"of": "py"})
    c = client.containers.run(IMAGE, "sleep infinity", init=True, detach=True)
    n.connect(c, aliases=["me"], ipv4_address="10.94.1.7")
    n.reload()
    equal([x.id for x in n.containers], [c.id])
    assert b"10.94.1.7" in client.containers.run(IMAGE, "nslookup me", network="pynet", remove=True)
    n.disconnect(c)
    c.remove(force=True)
    equal([x.name for x in client.networks.list(filters={"label": "of=py"})], ["pynet"])
    n.remove()
    raises(docker.errors.NotFound, client.networks.get, "pynet")
    client.networks.prune()


def volumes():
    v = client.volumes.create("pyvol", labels={"of": "py"})
    run = lambda command, **more: client.containers.run(IMAGE, ["sh", "-c", command], remove=True, **more)
    run("echo kept >/v/f", volumes={"pyvol": {"bind": "/v", "mode": "rw"}})
    equal(run("cat /v/f", mounts=[docker.types.Mount("/v", "pyvol", read_only=True)]), b"kept\n")
    equal([x.name for x in client.volumes.list(filters={"label": "of=py"})], ["pyvol"])
    v.remove()
    raises(docker.errors.NotFound, client.volumes.get, "pyvol")
    client.volumes.prune()


def events():
    stream = client.events(decode=True, filters={"type": "container", "event": ["start", "die"]})
    seen = []

    def listen():
        for e in stream:
            seen.append(e["Action"])
            if e["Action"] == "die":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    client.containers.run(IMAGE, "true", remove=True)
    listener.join(20)
    stream.close()
    equal(seen, ["start", "die"])


def lowlevel():
    host = low.create_host_config(port_bindings={80: ("127.0.0.1",)}, binds=["/tmp:/host:ro"], restart_policy={"Name": "no"})
    c = low.create_container(IMAGE, "sleep infinity", ports=[80], volumes=["/host"], host_config=host,
                             networking_config=low.create_networking_config({"bridge": low.create_endpoint_config()}))
    low.start(c)
    assert low.port(c, 80)[0]["HostPort"]
    e = low.exec_create(c, "cat", stdin=True)
    s = low.exec_start(e, socket=True)
    s._sock.sendall(b"through\n")
    s._sock.shutdown(socket.SHUT_WR)
    equal(s._sock.recv(8) + s._sock.recv(8), struct.pack(">BxxxL", 1, 8) + b"through\n")
    equal(low.exec_inspect(e)["ProcessConfig"]["entrypoint"], "cat")
    tty = low.exec_create(c, "sleep 100", tty=True)
    low.exec_start(tty, detach=True)
    low.exec_resize(tty, height=30, width=100)
    low.remove_container(c, force=True)
    raises(docker.errors.APIError, low.inspect_container, c)


for subject in (engine, containers, logs, attach, files, images, build, networks, volumes, events, lowlevel):
    subject()
    print("ok", subject.__name__, flush=True)
