"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from medseg.config import BatchConfig, ExperimentConfig, SegmentConfig
from medseg.errors import ConfigError

TOKEN_FILE = "token.key"
LOG_FILE = "server.log"
LOCK_FILE = ".lock"
RESULTS, REVIEW, LESSONS, INCOMING = "results", "review", "lessons", "incoming"
"""Folders in a server's output folder."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take of the server.

    Attributes
    ----------
    upload_mb : largest body of a request, MB.
    upload_seconds : longest time that a body may take.
    waiting : inferences that may wait for their turn; another is refused.
    """

    upload_mb: float = 512.0
    upload_seconds: float = 300.0
    waiting: int = 8


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """A server.

    Attributes
    ----------
    studies : folder of the scans; never written to.
    output : where everything that is made goes.
    model : model folder; None: review only.
    labels : file of the label map, where there is no model.
    dataset : labelled cases to train on beside the reviewed ones.
    experiment : how a fine-tuning goes; its dataset is not looked at.
    batch : how scans are named and read.
    device : auto, cpu, cuda, or one GPU such as cuda:1.
    ahead : segment all studies in the background, so that the most doubtful is known.
    """

    studies: Path
    output: Path
    model: Path | None = None
    labels: Path | None = None
    dataset: Path | None = None
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    device: str = "auto"
    ahead: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.labels is None):
            raise ConfigError("give --model, or --labels for a review without a model; not both")

    @property
    def segmenting(self) -> SegmentConfig:
        """How scans are segmented: in this process."""
        fields = self.batch.model_dump()
        return SegmentConfig(**fields, device=self.device, workers=0)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens, and who may come in.

    Attributes
    ----------
    needs_token : only with the token; may be waived on the machine itself.
    certificate, certificate_key : files for https; None: http.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    needs_token: bool = True
    certificate: Path | None = None
    certificate_key: Path | None = None

    def __post_init__(self) -> None:
        if not self.needs_token and not self.is_loopback:
            raise ConfigError(f"--no-token is for this machine alone; {self.host} can be reached by others")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ConfigError("https needs both --tls-certificate and --tls-key")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The address that a client enters, without the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"
