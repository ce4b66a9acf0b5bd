"""Settings of the node: app.yaml first, the environment over it (GLIOMA_NODE__AE_TITLE=...), defaults below.

The only module that reads YAML or the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from app.config_base import AETitle, Port, Section, hold_address
from app.config_deidentification import DeidentificationConfig
from app.config_delivery import CommitmentConfig, StowConfig
from app.config_history import HistoryConfig
from app.config_operation import AuditConfig, LogConfig, OperationConfig, RetentionConfig
from app.config_results import ReportConfig, ResultsConfig
from app.config_series import SeriesConfig
from app.config_tls import CertificateBinding, DestinationTls, TlsFiles
from app.errors import ConfigError
from models.engine_choice import EngineChoice
from operators.deidentify_form import Profile
from operators.pixel_limits import PixelLimits
from operators.quality_limits import QualityLimits
from operators.segmentation_form import Form
from operators.series_rules import Rules

PREFIX = "GLIOMA_NODE__"
"""Of the environment's variables."""
MOST_PROCESSES = 4
"""Of the receiver, unless asked for: the disk's syncs bound what more would bring, and each takes its memory."""


class Peer(CertificateBinding):
    """Who may send to the node."""

    ae_title: AETitle
    """Calling AE title."""
    address: Annotated[str, AfterValidator(hold_address)] | None = None
    """IP address it must come from; none: any."""


class ReceiverConfig(Section):
    """The Storage and Verification SCP."""

    ae_title: AETitle = "GLIOMA_NODE"
    """Title the node answers to; an association that calls another is rejected."""
    host: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens for its PACS
    """Address to listen on."""
    port: Port = 11112
    """TCP port to listen on; 0 takes a free one."""
    peers: tuple[Peer, ...] = ()
    """Who may send; an empty list lets nobody in."""
    allow_any_peer: bool = False
    """Switches the allow-list off. For a closed test network only."""
    max_associations: int = Field(default=10, ge=1)
    """Associations served at once; one more is rejected."""
    max_associations_per_peer: int = Field(default=5, ge=1)
    """Associations served at once from one IP address; one more is rejected, so that no address takes all."""
    processes: int | None = Field(default=None, ge=1, le=64)
    """Processes that serve associations behind the one port, under the same limits together; none: one for each CPU
    that the node may use, at most 4."""
    tls: TlsFiles | None = None
    """With it the port speaks TLS alone; without it, plain DICOM alone."""
    max_pdu_bytes: int = Field(default=131_072, ge=4_096)
    """Largest PDU the node announces that it receives, in bytes."""
    max_object_mb: int = Field(default=1_000, ge=1)
    """Largest instance that is taken into memory; a bigger one ends its association, in MB."""
    memory_mb: int = Field(default=2_000, ge=1)
    """What all associations together may hold in memory of what is being received, in MB; an instance for which there
    is no room is refused with 0xA700, and comes again later. At least `max_object_mb`."""
    network_timeout_seconds: float = Field(default=60.0, gt=0)
    """A silent association is ended after this long, and so is a connection whose PDU takes longer to come,
    or whose message does, at less than 10 KB a second beyond this."""
    free_space_watermark_mb: int = Field(default=2_000, ge=0)
    """With less free disk than this, instances are refused with 0xA700, in MB."""

    @property
    def process_count(self) -> int:
        """How many processes serve."""
        return self.processes or min(len(os.sched_getaffinity(0)), MOST_PROCESSES)

    @model_validator(mode="after")
    def _largest_object_finds_room(self) -> ReceiverConfig:
        if self.memory_mb < self.max_object_mb:
            raise ValueError(f"memory_mb must be at least max_object_mb, which is {self.max_object_mb}")
        return self

    @model_validator(mode="after")
    def _certificates_need_tls(self) -> ReceiverConfig:
        if self.tls is None and any(peer.is_bound for peer in self.peers):
            raise ValueError("a peer is bound to a certificate, but node.receiver.tls is not set")
        return self


class InboxConfig(Section):
    """When a study counts as complete."""

    settle_seconds: float = Field(default=3.0, ge=0)
    """Quiet time after which a study whose four contrasts are recognised is complete."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Quiet time after which any study is complete."""
    poll_seconds: float = Field(default=0.5, gt=0)
    """How often the inbox is looked at."""


class Destination(Section):
    """Where results are sent."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Short name for logs and the journal."""
    ae_title: AETitle = ""
    """AE title of the Storage SCP; this and the next two are to be given, unless `stow` is."""
    host: str = ""
    """Its host name or address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 0
    """Its TCP port."""
    segmentation: Form = "binary"
    """Form of the segmentations that it gets, with a report that refers to them: binary, which every PACS knows, or
    labelmap (Label Map Segmentation, of 2024)."""
    deidentify: Profile | None = None
    """De-identifies what it gets by PS3.15 Annex E, and leaves out the report page: basic (dates go) or shifted-dates
    (a patient's dates all move alike, into the past); none: results name the patient (docs/security.md)."""
    tls: DestinationTls | None = None
    """With it results go over TLS; without it, as plain DICOM."""
    commitment: CommitmentConfig | None = None
    """With it the destination is held to storage commitment; without it, its answer to C-STORE is the last word."""
    stow: StowConfig | None = None
    """With it results go there by STOW-RS, over the web; without it, by C-STORE."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Destination:
        if self.stow is None and not (self.ae_title and self.host and self.port):
            raise ValueError("a destination needs ae_title, host and port, or stow with its url")
        if self.stow is not None and (self.ae_title or self.host or self.port or self.tls or self.commitment):
            raise ValueError("stow stands in place of ae_title, host, port, tls and commitment: give one or the other")
        return self

    @property
    def address(self) -> str:
        """Where it is, in words: AE@host:port, or its URL."""
        return self.stow.url if self.stow is not None else f"{self.ae_title}@{self.host}:{self.port}"

    @property
    def reporter(self) -> str:
        """Title under which its reports of storage commitment come."""
        return (self.commitment.reported_by if self.commitment is not None else None) or self.ae_title


class SenderConfig(Section):
    """How results are sent."""

    calling_ae_title: AETitle = "GLIOMA_NODE"
    """Title the node calls itself."""
    destinations: tuple[Destination, ...] = ()
    """Each gets every result, segmentations in its own form; none: results stay in the archive folder alone."""
    first_retry_seconds: float = Field(default=5.0, gt=0)
    """Wait after a first failure; it doubles with each further one."""
    longest_retry_seconds: float = Field(default=900.0, gt=0)
    """The wait never grows beyond this."""
    refusals_allowed: int = Field(default=5, ge=1)
    """A file that a destination refuses this often in a way that no resend mends becomes a dead letter: it is sent
    again only when a person asks (`python -m app queue retry`). A destination that is not reached is tried for ever."""
    network_timeout_seconds: float = Field(default=30.0, gt=0)
    """A silent peer is given up after this long, and tried again later."""

    def pause(self, failures: int) -> float:
        """Return how long, in seconds, to wait after so many failures: it doubles with each, up to a limit."""
        return min(self.first_retry_seconds * 2.0 ** min(failures - 1, 32), self.longest_retry_seconds)

    def held_to_commitment(self, reporter: str | None = None) -> list[Destination]:
        """Return the destinations with storage commitment; with a title, those whose reports come under it."""
        found = [each for each in self.destinations if each.commitment is not None]
        return [each for each in found if reporter in {None, each.reporter}]


class PreprocessConfig(Section):
    """Registration, brain mask and bias field, in a process of their own."""

    timeout_seconds: float = Field(default=300.0, gt=0)
    """When preprocessing takes longer, the process is replaced and the study tried again, in seconds."""


class PipelineConfig(Section):
    """The analysis."""

    scheduler_threads: int = Field(default=4, ge=1)
    """Threads of the Holoscan scheduler: as many stages can be at work at once, on different studies."""
    studies_at_once: int = Field(default=2, ge=1)
    """Studies in the graph at a time; the rest wait on disk, so memory does not grow with the queue."""
    retries: int = Field(default=2, ge=1)
    """How often a study that crashed or hung the node, or its worker process, is tried again, alone, before it is
    quarantined. At least once: a study that was only beside such a one in the node must not pay for it."""
    timeout_seconds: float = Field(default=1_800.0, gt=0)
    """A study that is in the graph for longer has hung the node, which then starts itself anew."""
    segmenter: str = "nasbranet"
    """Which weights under the models folder segment."""
    engine: EngineChoice = "auto"
    """What runs the networks: auto (TensorRT where a CUDA device and the package are present, else OpenVINO), openvino
    (CPU) or tensorrt (NVIDIA GPU; an error where it cannot be); docs/engines.md."""


class Settings(BaseSettings):
    """All of it; unknown keys are errors."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )
    data_dir: Path = Path("var")
    """Holds inbox, outbox, archive and journal; created with mode 0700."""
    models_dir: Path = Path(__file__).resolve().parents[1] / "models" / "weights"
    """One folder a model, each with a model.onnx."""
    inputs_dir: Path = Path(__file__).resolve().parents[1] / "models" / "inputs"
    """One file a model, NAME.json: what it was trained on, for the check of its input; and training_data.json, which
    says it of each model's version in a line for the report page."""
    receiver: ReceiverConfig = ReceiverConfig()
    inbox: InboxConfig = InboxConfig()
    sender: SenderConfig = SenderConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    pipeline: PipelineConfig = PipelineConfig()
    history: HistoryConfig = HistoryConfig()
    series: SeriesConfig = SeriesConfig()
    report: ReportConfig = ReportConfig()
    audit: AuditConfig = AuditConfig()
    deidentification: DeidentificationConfig = DeidentificationConfig()
    results: ResultsConfig = ResultsConfig()
    retention: RetentionConfig = RetentionConfig()
    operation: OperationConfig = OperationConfig()
    log: LogConfig = LogConfig()
    pixels: PixelLimits = PixelLimits()
    """What images may ask of the node."""
    quality: QualityLimits = QualityLimits()
    """Where quality checks warn and stop; operators/quality_limits.py documents each limit."""

    @property
    def wants_labelmap(self) -> bool:
        """Whether any destination gets label maps."""
        return any(destination.segmentation == "labelmap" for destination in self.sender.destinations)

    @property
    def series_rules(self) -> Rules:
        """The site's own rules of series typing."""
        return tuple(entry.rule for entry in self.series.rules)

    @property
    def inbox_dir(self) -> Path:
        """A folder per study."""
        return self.data_dir / "inbox"

    @property
    def work_dir(self) -> Path:
        """A folder per job: the instances it works on, and its results until they are owed."""
        return self.data_dir / "work"

    @property
    def outbox_dir(self) -> Path:
        """A folder per job: the results that are owed."""
        return self.data_dir / "outbox"

    @property
    def archive_dir(self) -> Path:
        """The embedded small archive: every result, a folder per study."""
        return self.data_dir / "archive"

    @property
    def engines_dir(self) -> Path:
        """Engines built for this machine's GPU, so that the next start does not build them again."""
        return self.data_dir / "engines"

    @property
    def journal_path(self) -> Path:
        """The SQLite journal."""
        return self.data_dir / "journal.sqlite"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over what app.yaml gave."""
        return env_settings, init_settings


def read_secret(stow: StowConfig) -> str:
    """Read the password or token of a web service; raises ConfigError that says where, never what, it is."""
    where = f"environment variable {stow.secret_variable}" if stow.secret_variable else f"file {stow.secret_file}"
    try:
        text = os.environ[stow.secret_variable] if stow.secret_variable else _text_of(stow.secret_file)
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"the secret in {where} cannot be read ({type(error).__name__})") from None
    secret = text.strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise ConfigError(f"{where} must hold one line of printable ASCII characters, the secret")
    return secret


def _text_of(path: Path | None) -> str:
    return path.read_text(encoding="utf-8") if path is not None else ""


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read app.yaml's `node` section, the environment, then `overrides`; raises ConfigError naming the key."""
    section: dict[str, Any] = {}
    if path is not None:
        try:
            text = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            # The error's own text quotes the line, and so perhaps a secret.
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
            raise ConfigError(f"{path} is not YAML{where}; mend it there, or a little before") from None
        if not isinstance(text, dict):
            raise ConfigError(f"{path} must be a mapping with a `node` section")
        section = text.get("node") or {}
    try:
        return Settings(**(section | overrides))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"setting node.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except SettingsError as error:
        # It names the section; its cause quotes the text.
        found = re.search(r'field "(\w+)"', str(error))
        name = f"{PREFIX}{found[1].upper()}" if found else PREFIX
        text = f"environment: variable {name}, or one that begins so, is not JSON; give JSON, or a variable a setting"
        raise ConfigError(text) from None
