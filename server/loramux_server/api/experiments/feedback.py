"""`POST /v1/feedback`: what users say about answers."""

from fastapi import APIRouter

from loramux_server.api.error_schemas import error_responses
from loramux_server.api.experiments.schemas import AcceptedFeedback, Feedback
from loramux_server.experiments.feedback import FeedbackService
from loramux_server.request_context import current_request


def feedback_router(service: FeedbackService) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["feedback"], responses=error_responses(404, 409, 413, 429))

    @router.post("/v1/feedback")
    async def give_feedback(body: Feedback) -> AcceptedFeedback:
        """Say how good the answer to a request of this API key was; of two on one request, the later one counts."""
        principal = current_request.get().principal
        key_id = principal.key_id if principal else ""
        found = await service.give(key_id, body.request_id, body.value, body.label)
        return AcceptedFeedback(request_id=body.request_id, score=body.value, experiment=found.experiment or None)

    return router
