"""One request at a time to object storage, through fsspec, repeated where that can help.

fsspec keeps a thread with an event loop, which a fork does not copy. So no file system is kept
here: fsspec itself keeps one for each process.
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from common.errors import UserError, one_line

# the schemes that requirements-remote.txt is enough for; memory:// ends with its process
SCHEMES = ("s3", "gs", "az", "memory")
INSTALL = "pip install -r requirements-remote.txt"
ATTEMPTS = 6
# seconds before the second attempt; each further wait is twice as long, up to the longest
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
CONNECT_SECONDS, READ_SECONDS = 10, 60  # without any answer
BUSY = (408, 429)  # HTTP status codes below 500 that a later attempt may not get
DENIED, MISSING, CHANGED = (401, 403), (404,), (412,)
EXPIRED = ("ExpiredToken", "RequestExpired", "TokenRefreshRequired")
# packages whose exceptions tell of the network, but for those that no attempt can help
NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "azure", "google", "gcsfs", "fsspec")
SETUP_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
SETUP_ERRORS += ("ParamValidationError", "NoRegionError", "TokenRetrievalError")

Result = TypeVar("Result")


class ObjectChanged(Exception):
    """The object is no longer the one that was listed; the text says how."""


def scheme_of(url: str) -> str:
    """The scheme of a URL.

    Raises `UserError` for one that is not among SCHEMES, and for a URL of nothing else.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UserError(f"{url}: found the scheme {scheme}://, expected a local path or {known}")
    if not rest.strip("/"):
        raise UserError(f"{url}: found no name after {scheme}://, expected a bucket and a path")
    return scheme


def file_system(url: str) -> Any:
    """The fsspec file system of a URL in this process.

    Raises `UserError` for an unknown scheme and where a package is missing.
    """
    scheme = scheme_of(url)
    try:
        import fsspec

        system = fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        missing = error.name or one_line(error)
        raise UserError(
            f"{url}: found no package for {scheme}:// ({missing}), expected it: {INSTALL}"
        ) from None
    except ValueError as error:  # such as an account of Azure that is not named
        raise UserError(f"{url}: found no settings to connect with ({one_line(error)})") from None
    if scheme == "s3":
        system.retries = 1  # attempts are counted and spaced in one place, which is `attempt`
    return system


def _options(scheme: str) -> dict[str, Any]:
    """What a file system is made with; AWS_* and the like are read by the packages themselves."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme != "s3":
        return options if scheme != "memory" else {}
    options["config_kwargs"] = {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
    }
    own = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if os.environ.get("S3_ENDPOINT_URL") and not any(map(os.environ.get, own)):
        options["endpoint_url"] = os.environ["S3_ENDPOINT_URL"]
    return options


def attempt(url: str, request: Callable[[Any], Result], verb: str = "read") -> Result:
    """The result of `request(file system)`, after several attempts where the first ones fail.

    Raises `UserError`, naming the URL, once no attempt can help, and `FileNotFoundError` where
    there is no such object.
    """
    system, waits = file_system(url), random.Random()  # processes must not wait in step
    for number in range(1, ATTEMPTS + 1):
        try:
            return request(system)
        except FileNotFoundError:
            raise
        except Exception as error:  # each package has its own
            if not _is_network_error(error):
                raise
            if _status(error) in MISSING:
                raise FileNotFoundError(url) from None
            if number == ATTEMPTS or not _may_pass(error):
                raise UserError(f"{url}: {_describe(error, verb, number)}") from None
        longest = min(FIRST_WAIT * 2 ** (number - 1), LONGEST_WAIT)
        time.sleep(longest * waits.uniform(0.5, 1))
    raise AssertionError("unreachable")


def _is_network_error(error: Exception) -> bool:
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | TimeoutError | ObjectChanged) or bool(
        packages.intersection(NETWORK_PACKAGES)
    )


def _may_pass(error: Exception) -> bool:
    """Whether a later attempt may succeed."""
    if isinstance(error, PermissionError | ObjectChanged) or _names(error).intersection(
        SETUP_ERRORS
    ):
        return False
    status = _status(error)
    return status is None or status >= 500 or status in BUSY


def _describe(error: Exception, verb: str, attempts: int) -> str:
    """One line on an error that no attempt can help, without the URL."""
    status, code = _status(error), _code(error)
    if isinstance(error, ObjectChanged) or status in CHANGED:
        reason = str(error) if isinstance(error, ObjectChanged) else "another etag"
        return f"found that the object changed since it was listed ({reason}), expected the same"
    shown = f"{code or one_line(error, 120)}{f', status {status}' if status else ''}"
    if code in EXPIRED:
        return f"found expired credentials ({shown}), expected new ones"
    if isinstance(error, PermissionError) or status in DENIED:
        return f"found no permission ({shown}), expected credentials that may {verb} it"
    if _names(error).intersection(SETUP_ERRORS):
        return f"found no usable credentials ({one_line(error)}), expected them in AWS_* or alike"
    times = f" in {attempts} attempts" if attempts > 1 else ""
    return f"cannot be {'written' if verb == 'write' else verb}{times} ({shown})"


def _names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _response(error: BaseException) -> dict[str, Any]:
    """What S3 answered, with which s3fs or botocore raised an error; empty for other errors."""
    for link in (error, error.__cause__):
        if isinstance(response := getattr(link, "response", None), dict):
            return response
    return {}


def _status(error: Exception) -> int | None:
    """The HTTP status code of an error, None for one without an answer."""
    code = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code is None:
        code = getattr(error, "status_code", None) or getattr(error, "code", None)
    return int(code) if isinstance(code, int) or str(code).isdecimal() else None


def _code(error: Exception) -> str:
    """The word that S3 names an error with, such as SlowDown; empty for other errors."""
    code = str(_response(error).get("Error", {}).get("Code", ""))
    return "" if code.isdecimal() else code
