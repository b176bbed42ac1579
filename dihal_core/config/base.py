"""What all settings share."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, closed (an unknown field is an error), finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
