"""One request to the Kubernetes API: what its address and its selectors say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.runner.cluster.object_store import RESOURCES, Object, Refused

_PATH = re.compile(r"/(api|apis/(?P<group>[^/]+))/v1/(namespaces/(?P<namespace>[^/]+)/(?=.))?(?P<rest>.+)")
_FIELDS = ("metadata.name", "metadata.namespace", "status.phase", "spec.nodeName", "type", "reason")
_EVENT_FIELDS = tuple(f"involvedObject.{key}" for key in ("name", "kind", "uid", "namespace"))


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        plural: of the resource.
        rest: of the path, after the subresource.
    """

    verb: str
    plural: str
    namespace: str
    name: str
    subresource: str
    rest: str
    query: dict[str, str]
    body: Object
    token: str | None

    @property
    def resource_name(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural

    def selects(self) -> Callable[[Object], bool]:
        """
        Raises:
            Refused: this server does not know such a selector.
        """
        labels = [_term(text) for text in self.query.get("labelSelector", "").split(",") if text]
        fields = [_term(text) for text in self.query.get("fieldSelector", "").split(",") if text]
        for key, _, _ in fields:
            if key not in _FIELDS + (_EVENT_FIELDS if self.plural == "events" else ()):
                raise Refused(
                    400, "BadRequest", f'Unable to find "{self.plural}" that match: field label not supported: {key}'
                )

        def chosen(one: Object) -> bool:
            own = one["metadata"].get("labels") or {}
            return all(_holds(own.get(key), *rest) for key, *rest in labels) and all(
                _holds(_field(one, key), *rest) for key, *rest in fields
            )

        return chosen


def parse(method: str, address: str, raw: bytes, authorization: str) -> Request:
    """
    Args:
        method: the verb that it stands for where the address names an object.
        authorization: the header; empty without.

    Raises:
        Refused: there is nothing at that address.
    """
    parts = urlsplit(address)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    found = _PATH.fullmatch(unquote(parts.path))
    plural, name, subresource, rest = [*(found["rest"] if found else "").split("/", 3), "", "", ""][:4]
    resource = RESOURCES.get(plural)
    if found is None or resource is None or resource.group != (found["group"] or ""):
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    verb = method
    if verb == "get" and not name:
        verb = "watch" if query.get("watch") in ("true", "True", "1") else "list"
    body = json.loads(raw) if raw else {}
    return Request(
        verb=verb,
        plural=plural,
        namespace=found["namespace"] or "",
        name=name or (body.get("metadata", {}).get("name", "") if verb == "create" else ""),
        subresource=subresource,
        rest=rest,
        query=query,
        body=body,
        token=authorization.removeprefix("Bearer ") or None,
    )


def _term(text: str) -> tuple[str, str, str]:
    """Key, operator and value; the operator is empty where it is enough that the label is there."""
    found = re.fullmatch(r"\s*([^\s=!()]+)\s*(?:(==?|!=)\s*([^\s=!()]*))?\s*", text)
    if found is None:
        raise Refused(400, "BadRequest", f"unable to parse requirement: {text}")
    key, operator, value = found.groups()
    return key, (operator or "").replace("==", "="), value or ""


def _holds(own: str | None, operator: str, value: str) -> bool:
    if not operator:
        return own is not None
    return (own == value) == (operator == "=")


def _field(one: Object, path: str) -> str:
    value: Any = one
    for key in path.split("."):
        value = (value or {}).get(key)
    return value or ""
