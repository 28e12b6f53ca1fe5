"""The routes of the service (FastAPI)."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer

import modeling_bdam

from ..gallery import PersonGallery
from .docs import docs_page
from .guard import Guard
from .models import Answer, ComposedQuery, ImageQuery, Item, Refusal, TextQuery
from .service import BusyError, GoneError, SearchService

_REQUESTS = 200  # at the same time
_FORM = "multipart/form-data"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The query is invalid."},
    401: {"model": Refusal, "description": "The token is missing or wrong."},
    413: {"model": Refusal, "description": "The body is too large."},
    422: {"model": Refusal, "description": "A field is missing or invalid."},
    503: {"model": Refusal, "description": "Too many requests; see the header Retry-After. Also 429."},
}
_GONE: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "There is no such row, or it belongs to an earlier generation."}
}


def create_app(gallery: PersonGallery, token: str | None, hosts: tuple[str, ...] | None) -> FastAPI:
    """Returns the service of a gallery; for `token` and `hosts` see `Guard`."""
    service = SearchService(gallery)
    app = FastAPI(
        title="Person search",
        version=modeling_bdam.__version__,
        description="Search a gallery of person images by a sentence, a picture or both.",
        responses=_REFUSALS,
        dependencies=[] if token is None else [Depends(HTTPBearer(auto_error=False))],  # `Guard` checks the token
        docs_url=None,  # its page would load scripts of another host
        redoc_url=None,
    )
    app.add_middleware(Guard, hosts=hosts, token=token, most=_REQUESTS, headers=_HEADERS)

    @app.post("/search/text")
    def search_text(query: TextQuery) -> Answer:
        """Searches by a sentence."""
        return service.search(query)

    @app.post("/search/image")
    def search_image(query: Annotated[ImageQuery, Form(media_type=_FORM)]) -> Answer:
        """Searches by a picture of one person."""
        return service.search(query)

    @app.post("/search/compose")
    def search_composed(query: Annotated[ComposedQuery, Form(media_type=_FORM)]) -> Answer:
        """Searches by a picture and a sentence: the identity of one in the clothes of the other."""
        return service.search(query)

    @app.get("/items/{row}", responses=_GONE)
    def item(row: int, generation: str | None = None) -> Item:
        """Returns the metadata of an image of the index."""
        return service.item(row, generation)

    @app.get("/items/{row}/image", responses=_GONE, response_class=Response)
    def image(row: int, generation: str | None = None) -> Response:
        """Returns an image of the index as JPEG, at most 1600 x 1600 pixels."""
        return Response(service.image(row, generation), media_type="image/jpeg")

    @app.get("/health")
    def health() -> dict[str, str]:
        """Checks that the index can be searched; needs no token."""
        service.reload()
        return {"status": "ok"}

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answers exceptions as JSON, `{"detail": ...}`."""

    def refusal(status: int, **headers: str) -> Any:
        def handle(request: Request, error: Exception) -> JSONResponse:
            detail = str(error).encode("utf-8", "replace").decode()  # a query may have broken characters
            return JSONResponse({"detail": detail}, status, headers)

        return handle

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        detail = [{"loc": entry["loc"], "msg": entry["msg"]} for entry in error.errors()]  # without the sent values
        return JSONResponse({"detail": detail}, 422)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ValueError, refusal(400))
    app.add_exception_handler(GoneError, refusal(404))
    for kind in (BusyError, OSError):  # OSError: a vector store that does not respond
        app.add_exception_handler(kind, refusal(503, **{"Retry-After": "1"}))
