"""What a repository holds, asked of the Hub through its own client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dsdeploy import __version__
from dsdeploy.errors import DeployError, ExitCode, UsageError
from dsdeploy.hub.listing import Listing, RemoteFile
from dsdeploy.hub.repository import Repository, is_commit
from dsdeploy.hub.retries import Retries, TransientError, retry_after

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_TIMEOUT = 30.0

T = TypeVar("T")


def identity(repository: Repository, commit: str) -> dict[str, Any]:
    """What a manifest says of where its files come from."""
    return {"repository": repository.id, "commit": commit}


class Hub:
    """One endpoint and whom it is asked by."""

    def __init__(self, endpoint: str, retries: Retries) -> None:
        self.endpoint, self._retries = _checked(endpoint), retries
        self.token = _token(self.endpoint)

    def commit_of(self, repository: Repository) -> str:
        """40 hex digits. A commit is its own: nothing is asked."""
        if is_commit(repository.revision):
            return repository.revision
        found = self._ask(
            repository,
            lambda api: (
                api.model_info(repository.id, revision=repository.revision, timeout=_TIMEOUT).sha
            ),
        )
        if not found or not is_commit(found):
            raise DeployError(
                f"{self.endpoint} does not say at which commit {repository} is.",
                "Name the commit with --revision.",
                ExitCode.NETWORK,
            )
        return found

    def list_files(self, repository: Repository, commit: str) -> Listing:
        """Everything in it, in any order."""

        def read(api: HfApi) -> tuple[RemoteFile, ...]:
            from huggingface_hub.hf_api import RepoFile

            entries = api.list_repo_tree(repository.id, recursive=True, revision=commit)
            return tuple(
                RemoteFile(
                    entry.path,
                    entry.size,
                    entry.lfs.sha256.lower() if entry.lfs else None,
                    None if entry.lfs else entry.blob_id,
                )
                for entry in entries
                if isinstance(entry, RepoFile)
            )

        # The client tries connections for its listings several times by itself.
        return Listing(identity(repository, commit), self._ask(repository, read, attempts=2))

    def _ask(
        self, repository: Repository, question: Callable[[HfApi], T], attempts: int | None = None
    ) -> T:
        from huggingface_hub import HfApi

        api = HfApi(
            endpoint=self.endpoint,
            token=self.token or False,
            library_name="dsdeploy",
            library_version=__version__,
        )
        failures = 0
        while True:
            try:
                return self._answer(repository, lambda: question(api))
            except TransientError as fault:
                failures += 1
                if failures >= (attempts or self._retries.metadata_attempts):
                    raise DeployError(
                        f"{fault.sentence}, {failures} times in a row.",
                        "Check the network and the proxy; HF_ENDPOINT names a mirror.",
                        ExitCode.NETWORK,
                    ) from None
                time.sleep(self._retries.wait(failures, fault))

    def _answer(self, repository: Repository, question: Callable[[], T]) -> T:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        # That of the HTTP library the client is built on, which is not the same in all releases.
        http_error: type[Exception] = HfHubHTTPError.__bases__[0]

        host = urlsplit(self.endpoint).netloc
        try:
            return question()
        except GatedRepoError:
            raise self._no_access(repository) from None
        except RevisionNotFoundError:
            raise UsageError(
                f"{repository.id} has no revision {repository.revision!r}.",
                "Name a branch, a tag or a commit of its page.",
            ) from None
        except RepositoryNotFoundError as error:
            raise self._not_found(repository, _status(error)) from None
        except OfflineModeIsEnabled:
            raise UsageError(
                "HF_HUB_OFFLINE is set, so the Hub is not asked.", "Unset it, or name a folder."
            ) from None
        except HfHubHTTPError as error:
            raise self._refused(repository, error) from None
        except http_error as error:
            raise TransientError(f"{host} cannot be reached ({type(error).__name__})") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TransientError(f"{host} answers what is no listing ({error!r:.80})") from None

    def _refused(self, repository: Repository, error: Exception) -> Exception:
        host, status = urlsplit(self.endpoint).netloc, _status(error)
        if status in (401, 403):
            return self._no_access(repository)
        sentence = f"{host} answers {status} for {repository.id}"
        if status in (408, 429) or status >= 500:
            headers = getattr(getattr(error, "response", None), "headers", {})
            return TransientError(sentence, retry_after(headers.get("retry-after")))
        return DeployError(f"{sentence}.", "Check the name and --endpoint.", ExitCode.NETWORK)

    def _no_access(self, repository: Repository) -> DeployError:
        if self.token:
            return DeployError(
                f"Your token has no access to {repository.id}, or has expired.",
                f"Ask for access on {self.endpoint}/{repository.id}, or make a new token.",
                ExitCode.NETWORK,
            )
        return DeployError(
            f"{repository.id} is private or gated, and there is no token.",
            "Set HF_TOKEN, or run `hf auth login`.",
            ExitCode.NETWORK,
        )

    def _not_found(self, repository: Repository, status: int) -> DeployError:
        """The Hub says 401 for a repository that is not there to whoever is not logged in."""
        if self.token and status == 401:
            return self._no_access(repository)
        hint = "Check the spelling; a private repository needs HF_TOKEN or `hf auth login`."
        return DeployError(
            f"{self.endpoint} has no repository {repository.id} that you may see.",
            hint,
            ExitCode.NETWORK,
        )


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint.rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{endpoint} is no address of a Hub.", f"Write it as {DEFAULT_ENDPOINT}.")
    if parts.username or parts.password:
        raise UsageError("An endpoint holds no password.", "Set HF_TOKEN instead.")
    return endpoint.rstrip("/")


def _token(endpoint: str) -> str | None:
    """HF_TOKEN or the stored login; never in clear over a network."""
    from huggingface_hub import get_token

    parts = urlsplit(endpoint)
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        return None
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "TRUE", "YES", "ON"):
        return os.environ.get("HF_TOKEN")
    return get_token()
