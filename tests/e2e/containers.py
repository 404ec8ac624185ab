"""Builds and runs the image where there is no registry: podman with storage of its own, a base from Debian packages.

Needs the standard library alone: ``python -m tests.e2e.containers NAME [OPTION...]`` builds the image too.
"""

import ast
import configparser
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORAGE = ROOT / ".ctr"
BASE = "python:3.11-slim-bookworm"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,libpython3-dev,ca-certificates"
TOOLS = ("podman", "runc", "mmdebstrap", "iptables", "apt-get")
PIP_SETTINGS = ("index-url", "trusted-host", "proxy", "timeout")
DOCUMENTATION = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


class Unavailable(Exception):
    """Why no container can be built or run here."""


class PodmanError(Exception):
    """A podman command failed; the message ends with what it wrote."""


class Podman:
    """Podman with its images and containers in ``folder``, apart from any that the machine has.

    Raises :class:`Unavailable` if this machine lacks the means.
    """

    def __init__(self, folder: Path = STORAGE) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")
        if os.geteuid() != 0:
            raise Unavailable("root is needed")
        self.folder = folder
        # The state of what runs: a short path, because sockets lie in it, and gone after a reboot.
        run = Path("/run") / f"bitgear-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        if not folder.exists():
            shutil.rmtree(run, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # what pip is told may be secret
        self._environment = {
            **os.environ,
            "PATH": _path(),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
        }
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "{_storage_driver(folder)}"\n'
            f'runroot = "{run}/storage"\ngraphroot = "{folder}/graph"\n'
        )
        # Without the right to raise limits, podman cannot give a container more than it has.
        files, processes = _hard_limit("-Hn"), Path("/proc/sys/kernel/pid_max").read_text().strip()
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
            f'tmp_dir = "{run}/libpod"\n'
        )

    def __call__(self, *arguments: str, check: bool = True, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run podman; return its status and output. With ``check``, a status other than 0 is :class:`PodmanError`."""
        done = subprocess.run(
            ["podman", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            output = f"{done.stdout}\n{done.stderr}"[-4000:]
            raise PodmanError(f"podman {' '.join(arguments)}: status {done.returncode}\n{output}")
        return done

    def make_base(self) -> None:
        """See that :data:`BASE` exists: Debian's Python of the same version, in the layout of the official image.

        Raises :class:`Unavailable` if Debian's packages cannot be had.
        """
        held = self("image", "inspect", "--format={{.Config.Labels.packages}}", BASE, check=False).stdout.strip()
        if held == PACKAGES:
            return
        archive = self.folder / "base.tar"
        if not archive.exists():
            partial = self.folder / "base.partial.tar"
            done = subprocess.run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--variant=minbase",
                    f"--include={PACKAGES}",
                    *(f"--dpkgopt=path-exclude={pattern}" for pattern in DOCUMENTATION),
                    '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
                    '--customize-hook=ln -s ../../bin/python3 "$1/usr/local/bin/python"',
                    SUITE,
                    str(partial),
                    f"deb {_mirror()} {SUITE} main",
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            if done.returncode != 0:
                raise Unavailable(f"no base image: mmdebstrap ended with {done.returncode}: {done.stderr[-1000:]}")
            partial.rename(archive)
        self(
            "import",
            "--quiet",
            "--change=ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            '--change=CMD ["python3"]',
            f"--change=LABEL packages={PACKAGES}",
            str(archive),
            BASE,
        )
        archive.unlink()

    def build(self, name: str, *arguments: str) -> None:
        """Build the image ``name`` from the Dockerfile, on the base as it is; drop what earlier builds left over."""
        settings, mounts = self._pip_settings()
        for options in (["--target=build", f"--tag={name}-build"], [f"--tag={name}"]):  # the name keeps its layers
            self(
                "build",
                "--format=docker",  # the other format has no HEALTHCHECK
                "--pull=never",
                "--network=host",
                f"--secret=id=pip.conf,src={settings}",
                *mounts,
                *arguments,
                *options,
                str(ROOT),
            )
        self("image", "prune", "--force")

    def run_with_index(self, name: str, image: str, *arguments: str) -> None:
        """Start the container ``name`` on this machine's network, as root, with what pip is told here."""
        settings, mounts = self._pip_settings()
        self(
            "run",
            "--detach",
            f"--name={name}",
            "--pull=never",
            "--network=host",
            "--user=0",
            f"--volume={settings}:/etc/pip.conf:ro",
            *mounts,
            f"--volume={ROOT}:/src:ro",
            image,
            *arguments,
        )

    def _pip_settings(self) -> tuple[Path, list[str]]:
        """Write down what pip is told here; return the file, and options that mount what it names."""
        settings = self.folder / "pip.conf"
        certificate = _write_pip_settings(settings)
        return settings, [f"--volume={certificate}:{certificate}:ro"] if certificate else []

    def size_bytes(self, image: str) -> int:
        """Return the size of an image with all its layers."""
        return int(self("image", "inspect", "--format", "{{.Size}}", image).stdout)


def _path() -> str:
    """Return the search path with the folders of system commands, which a user's may lack."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def _hard_limit(option: str) -> str:
    return subprocess.run(["sh", "-c", f"ulimit {option}"], capture_output=True, text=True, check=True).stdout.strip()


def _storage_driver(folder: Path) -> str:
    """Return overlay, or vfs in a folder that itself lies on an overlay, where another cannot be stacked."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()
    return "vfs" if kind == "overlayfs" else "overlay"


def _mirror() -> str:
    """Return the Debian mirror that this machine's apt uses."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    mirrors = [uri for label, _, uri in (line.rpartition(" ") for line in targets) if label == "Debian"]
    if not mirrors:
        raise Unavailable("apt knows no Debian mirror (apt-get update?)")
    return mirrors[0]


def _write_pip_settings(path: Path) -> str | None:
    """Write what pip is told here by file and environment, for the build; return the certificate file, if any."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    told: dict[str, str] = {}
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):  # the environment comes last and wins
        name, _, value = line.partition("=")
        told[name.rpartition(".")[2]] = ast.literal_eval(value)
    settings = configparser.RawConfigParser()
    settings["global"] = {name: told[name] for name in PIP_SETTINGS if name in told}
    certificate = told.get("cert") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificate:
        settings["global"]["cert"] = certificate
    with path.open("w") as file:
        settings.write(file)
    return certificate


def main() -> None:
    """Build the image under the name given."""
    try:
        podman = Podman()
        podman.make_base()
        podman.build(*sys.argv[1:])
    except (Unavailable, PodmanError) as error:
        sys.exit(f"error: {error}")
    print(f"{sys.argv[1]} is in the storage of {STORAGE}")


if __name__ == "__main__":
    main()
