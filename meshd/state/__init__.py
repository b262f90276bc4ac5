"""DESIRED state: what the sources want, with revisions. Sources and servers write it; only the dataplane reads it to act."""

from meshd.state.mesh import Mesh, SourceState
from meshd.state.outcomes import PlanKey
from meshd.state.table import Compacted, Table

__all__ = ["Compacted", "Mesh", "PlanKey", "SourceState", "Table"]
