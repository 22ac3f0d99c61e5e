"""Which cluster is meant, and as whom: the kubeconfig, or inside of a cluster the service account."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import yaml
from kubernetes import client, config
from kubernetes.config import incluster_config, kube_config
from kubernetes.config.config_exception import ConfigException

from runner.launchers import LaunchImpossible

_ADVICE = "Set KUBECONFIG, or get one for your cluster (`kubectl config view` shows what is in use)."


def read_kubeconfig(configuration: client.Configuration) -> str | None:
    """Fill it in; returns the namespace that the kubeconfig's context names, or the service account's.

    Raises:
        LaunchImpossible: there is none, or it cannot be used.
    """
    named = os.environ.get("KUBECONFIG")  # the client has looked when it was imported
    where = named or str(kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    try:
        config.load_kube_config(config_file=named, client_configuration=configuration)
        _, active = config.list_kube_config_contexts(config_file=named)
        namespace = (active.get("context") or {}).get("namespace")
        return None if namespace is None else str(namespace)
    except (ConfigException, OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        if any(Path(one).expanduser().exists() for one in where.split(os.pathsep)):
            # What it says of a file that is none is about its own objects.
            why = _first_line(error) if isinstance(error, ConfigException | OSError) else "it is not one"
            raise LaunchImpossible(f"the kubeconfig {where} cannot be used ({why}).", _ADVICE) from None
    return _of_service_account(configuration, where)


def _of_service_account(configuration: client.Configuration, where: str) -> str | None:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except ConfigException:
        raise LaunchImpossible(f"there is no kubeconfig {where}, and no service account.", _ADVICE) from None
    with suppress(OSError):
        return Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace").read_text().strip() or None
    return None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200].rstrip(".")
