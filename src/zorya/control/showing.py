"""What is shown of a cluster, put together from what its owner knows."""

from zorya.control.cluster import ClusterOwner
from zorya.control.view import ClusterView
from zorya.core.model import Address


def view(
    owner: ClusterOwner,
    *,
    engine_version: str,
    engine_log: str,
    endpoint: Address,
    reader_endpoint: Address | None,
    attach: str,
    attach_reason: str,
    acu_s: float,
    storage_bytes: int | None,
) -> ClusterView:
    """Answer the cluster as it is now."""
    record = owner.record
    return ClusterView(
        name=record.name,
        id=record.id,
        engine=record.engine,
        engine_version=engine_version,
        mode=record.mode,
        status=record.status,
        compute=record.compute,
        reason=record.reason,
        capacity=owner.capacity,
        min_capacity=record.min_capacity,
        max_capacity=record.max_capacity,
        fixed_capacity=record.fixed_capacity if record.is_provisioned else None,
        last_scaling=owner.last_scaling,
        load=owner.load,
        acu_s=acu_s,
        storage_bytes=storage_bytes,
        pause_after_s=record.pause_after_s,
        freeze_after_s=record.freeze_after_s,
        allow=record.access.allow,
        require_tls=record.access.require_tls,
        wake_on=record.access.wake_on,
        max_clients=record.access.max_clients,
        endpoint=endpoint,
        endpoint_problem=owner.endpoint_problem,
        attach=attach,
        attach_reason=attach_reason,
        username=record.username,
        database=record.database,
        sessions=owner.sessions,
        engine_pid=owner.pid,
        resident_bytes=owner.resident_bytes,
        awake_reason=owner.awake_reason,
        engine_log=engine_log,
        pauses_in_s=owner.pauses_in_s,
        operation=owner.operation,
        volume=owner.volume,
        reader_endpoint=reader_endpoint,
        reader_problem=owner.reader_problem,
        created_at=record.created_at,
    )
