"""A root file system that a lab brings as an archive runs as a service like any other image."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from meshnet.testing.labs import bring_up, take_down

pytestmark = pytest.mark.root

SERVER = r"""
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(9000) };
    char text[] = "HTTP/1.0 200 OK\r\n\r\nfrom the archive\n", request[4096];
    int listening = socket(AF_INET, SOCK_STREAM, 0), client;
    if (bind(listening, (void *)&here, sizeof here) || listen(listening, 64)) return 1;
    while ((client = accept(listening, 0, 0)) >= 0) {
        read(client, request, sizeof request);
        write(client, text, strlen(text));
        close(client);
    }
    return 0;
}
"""

COMPOSE = """
services:
  app: {image: app, ports: ["9000:9000"], deploy: {replicas: 2}}
"""


def test_an_archive_serves_a_published_port(tmp_path: Path) -> None:
    """The archive is unpacked once for the lab; its tasks answer through every node, and nothing of it stays."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc: run make setup")
    (tmp_path / "server.c").write_text(SERVER)
    subprocess.run(["gcc", "-static", "-O1", "-w", "-o", "server", "server.c"], cwd=tmp_path, check=True, timeout=60)
    with tarfile.open(tmp_path / "app.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "server", "bin/server")
    (tmp_path / "compose.yml").write_text(COMPOSE)
    (tmp_path / "lab.yml").write_text(
        "nodes: {a: {role: manager}, b: }\nclients: {client: }\nservices: compose.yml\n"
        "images: {app: {rootfs: app.tar.gz, command: [/bin/server]}}\n"
    )
    lab = bring_up(tmp_path)
    try:
        addresses = [node.address for node in lab.spec.nodes]
        for address in addresses:
            assert lab.client().out(f"curl -s -m 15 http://{address}:9000") == "from the archive"
    finally:
        take_down(lab)
    assert not Path("/run/meshnet", lab.spec.name).exists()
