"""How a server behaves under load: what may be changed while it runs."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import BadParameter, BadRequest
from server.profiles import Profile
from server.settings import Margin, PolicyName, Settings, SloMs


class Conduct(BaseModel):
    """The policy with its margin, the active profile, and limits; docs/http.md says what each is.

    ``slo_ms`` None: the profile's aim.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    policy: PolicyName
    margin: Margin
    profile: str
    slo_ms: SloMs | None
    max_requests: Annotated[int, Field(ge=1, le=1_000_000)]
    max_deadline_s: Annotated[float, Field(gt=0, le=3600)]

    def changed(self, document: Any) -> "Conduct":
        """Return this with the members of a JSON object instead of its own, where there are any.

        Raises :class:`~server.errors.BadRequest` for what is no object, and :class:`~server.errors.BadParameter` naming
        the first member that is unknown or out of range.
        """
        if not isinstance(document, dict):
            raise BadRequest("the body must be a JSON object with what is to change")
        try:
            return Conduct.model_validate({**self.model_dump(), **document})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0])[:40]
            known = ", ".join(Conduct.model_fields)
            said = f"it is unknown; known are {known}" if first["type"] == "extra_forbidden" else first["msg"]
            raise BadParameter(f"{name}: {said}", name) from error


def first_conduct(settings: Settings, profile: Profile) -> Conduct:
    """Return how a server starts out: as its settings say, else as its profile does."""
    return Conduct(
        policy=profile.policy if settings.policy is None else settings.policy,
        margin=profile.margin if settings.margin is None else settings.margin,
        profile=profile.name,
        slo_ms=settings.slo_ms,
        max_requests=settings.max_requests,
        max_deadline_s=settings.max_deadline_s,
    )


def conduct_schema() -> Mapping[str, Any]:
    """Return the JSON schema of a change: every member may be left out."""
    schema = Conduct.model_json_schema()
    return {key: value for key, value in schema.items() if key not in ("required", "title", "description")}
