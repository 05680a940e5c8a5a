# SPDX-License-Identifier: LGPL-2.1-or-later
import grpc

from .requirements import error, sane
from .server import Skip, equal, fails


def check_health(s, service=""):
    try:
        return s.healthz.Check(s.health.HealthCheckRequest(service=service))
    except grpc.RpcError as problem:
        if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise Skip("the server has no health service")
        raise


@sane("A server that answers is SERVING.")
def serving(s):
    equal(check_health(s).status, 1, "status (1 is SERVING)")


@error("A service that the server does not know is NOT_FOUND.")
def unknown_service(s):
    check_health(s)
    fails(lambda: check_health(s, "no.such.Service"), "NOT_FOUND")


@sane("Watch tells the status at once and stays open.")
def watch(s):
    check_health(s)
    for service, status in (("", 1), ("no.such.Service", 3)):
        call = s.healthz.Watch(s.health.HealthCheckRequest(service=service))
        try:
            equal(next(call).status, status, f"first status of '{service}'")
        except grpc.RpcError as problem:
            if problem.code() == grpc.StatusCode.UNIMPLEMENTED:
                raise Skip("the server has no Health.Watch")
            raise
        finally:
            call.cancel()
