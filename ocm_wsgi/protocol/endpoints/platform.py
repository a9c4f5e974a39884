"""The endpoints for an API key: turns, models, and the rest of the platform that can be counted and kept apart.

Endpoints that make models work where this service cannot see it (agents, live sessions, calls over WebRTC) or that
administer the owner's organization are missing on purpose.

Source: the paths and methods of OpenAI's library for Python, 3.57.
"""

from __future__ import annotations

from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET, Endpoint

_MODELS = (
    Endpoint("GET", "models"),
    Endpoint("HEAD", "models"),
    Endpoint("GET", "models/{model}"),
    Endpoint("HEAD", "models/{model}"),
    # Deletes a model that the owner has fine-tuned.
    Endpoint("DELETE", "models/{model}", for_admins=True),
)

_RESPONSES = (
    Endpoint(WEBSOCKET, "responses", "responses", creates="response"),
    Endpoint("POST", "responses", "responses", creates="response"),
    Endpoint("POST", "responses/compact", "responses"),
    Endpoint("POST", "responses/input_tokens"),
    Endpoint("GET", "responses/{response}"),
    Endpoint("DELETE", "responses/{response}"),
    Endpoint("POST", "responses/{response}/cancel"),
    Endpoint("GET", "responses/{response}/input_items"),
    Endpoint("POST", "conversations", creates="conversation"),
    Endpoint("GET", "conversations/{conversation}"),
    Endpoint("POST", "conversations/{conversation}"),
    Endpoint("DELETE", "conversations/{conversation}"),
    Endpoint("GET", "conversations/{conversation}/items"),
    Endpoint("POST", "conversations/{conversation}/items"),
    Endpoint("GET", "conversations/{conversation}/items/{item}"),
    Endpoint("DELETE", "conversations/{conversation}/items/{item}"),
)

_COMPLETIONS = (
    Endpoint("POST", "completions", "completions"),
    Endpoint("POST", "chat/completions", "chat", creates="completion"),
    Endpoint("GET", "chat/completions", lists="completion"),
    Endpoint("GET", "chat/completions/{completion}"),
    Endpoint("POST", "chat/completions/{completion}"),
    Endpoint("DELETE", "chat/completions/{completion}"),
    Endpoint("GET", "chat/completions/{completion}/messages"),
)

_MODALITIES = (
    Endpoint("POST", "embeddings", "embeddings"),
    Endpoint("POST", "moderations", "moderation"),
    Endpoint("POST", "images/generations", "images"),
    Endpoint("POST", "images/edits", "images"),
    Endpoint("POST", "images/variations", "images"),
    Endpoint("POST", "audio/speech", "speech"),
    Endpoint("POST", "audio/transcriptions", "transcription"),
    Endpoint("POST", "audio/translations", "transcription"),
    Endpoint("POST", "videos", "video", creates="video"),
    Endpoint("GET", "videos", lists="video"),
    Endpoint("POST", "videos/edits", "video", creates="video"),
    Endpoint("POST", "videos/extensions", "video", creates="video"),
    Endpoint("GET", "videos/{video}"),
    Endpoint("DELETE", "videos/{video}"),
    Endpoint("GET", "videos/{video}/content"),
    Endpoint("POST", "videos/{video}/remix", "video", creates="video", names_model=False),
)

_FILES = (
    Endpoint("POST", "files", creates="file"),
    Endpoint("GET", "files", lists="file"),
    Endpoint("GET", "files/{file}"),
    Endpoint("DELETE", "files/{file}"),
    Endpoint("GET", "files/{file}/content"),
    Endpoint("POST", "uploads", creates="upload"),
    Endpoint("POST", "uploads/{upload}/parts"),
    # The answer is the upload, with the new file as its member `file`.
    Endpoint("POST", "uploads/{upload}/complete", creates="file"),
    Endpoint("POST", "uploads/{upload}/cancel"),
    Endpoint("POST", "containers", "container", creates="container", names_model=False),
    Endpoint("GET", "containers", lists="container"),
    Endpoint("GET", "containers/{container}"),
    Endpoint("DELETE", "containers/{container}"),
    Endpoint("GET", "containers/{container}/files"),
    Endpoint("POST", "containers/{container}/files"),
    Endpoint("GET", "containers/{container}/files/{file}"),
    Endpoint("DELETE", "containers/{container}/files/{file}"),
    Endpoint("GET", "containers/{container}/files/{file}/content"),
    Endpoint("POST", "skills", creates="skill"),
    Endpoint("GET", "skills", lists="skill"),
    Endpoint("GET", "skills/{skill}"),
    Endpoint("POST", "skills/{skill}"),
    Endpoint("DELETE", "skills/{skill}"),
    Endpoint("GET", "skills/{skill}/content"),
    Endpoint("GET", "skills/{skill}/versions"),
    Endpoint("POST", "skills/{skill}/versions"),
    Endpoint("GET", "skills/{skill}/versions/{version}"),
    Endpoint("DELETE", "skills/{skill}/versions/{version}"),
    Endpoint("GET", "skills/{skill}/versions/{version}/content"),
)

_VECTOR_STORES = (
    Endpoint("POST", "vector_stores", creates="vector_store"),
    Endpoint("GET", "vector_stores", lists="vector_store"),
    Endpoint("GET", "vector_stores/{vector_store}"),
    Endpoint("POST", "vector_stores/{vector_store}"),
    Endpoint("DELETE", "vector_stores/{vector_store}"),
    Endpoint("POST", "vector_stores/{vector_store}/search", "search", names_model=False),
    Endpoint("GET", "vector_stores/{vector_store}/files"),
    Endpoint("POST", "vector_stores/{vector_store}/files"),
    Endpoint("GET", "vector_stores/{vector_store}/files/{file}"),
    Endpoint("POST", "vector_stores/{vector_store}/files/{file}"),
    Endpoint("DELETE", "vector_stores/{vector_store}/files/{file}"),
    Endpoint("GET", "vector_stores/{vector_store}/files/{file}/content"),
    Endpoint("POST", "vector_stores/{vector_store}/file_batches"),
    Endpoint("GET", "vector_stores/{vector_store}/file_batches/{file_batch}"),
    Endpoint("POST", "vector_stores/{vector_store}/file_batches/{file_batch}/cancel"),
    Endpoint("GET", "vector_stores/{vector_store}/file_batches/{file_batch}/files"),
)

_JOBS = (
    Endpoint("POST", "batches", "batch", creates="batch", is_metered=False),
    Endpoint("GET", "batches", lists="batch"),
    Endpoint("GET", "batches/{batch}"),
    Endpoint("POST", "batches/{batch}/cancel"),
    Endpoint("POST", "fine_tuning/jobs", "fine_tuning", creates="fine_tuning_job", is_metered=False),
    Endpoint("GET", "fine_tuning/jobs", lists="fine_tuning_job"),
    Endpoint("GET", "fine_tuning/jobs/{fine_tuning_job}"),
    Endpoint("POST", "fine_tuning/jobs/{fine_tuning_job}/cancel"),
    Endpoint("POST", "fine_tuning/jobs/{fine_tuning_job}/pause"),
    Endpoint("POST", "fine_tuning/jobs/{fine_tuning_job}/resume", "fine_tuning", names_model=False, is_metered=False),
    Endpoint("GET", "fine_tuning/jobs/{fine_tuning_job}/checkpoints"),
    Endpoint("GET", "fine_tuning/jobs/{fine_tuning_job}/events"),
    Endpoint("POST", "evals", creates="eval"),
    Endpoint("GET", "evals", lists="eval"),
    Endpoint("GET", "evals/{eval}"),
    Endpoint("POST", "evals/{eval}"),
    Endpoint("DELETE", "evals/{eval}"),
    Endpoint("GET", "evals/{eval}/runs"),
    Endpoint("POST", "evals/{eval}/runs", "eval", is_metered=False),
    Endpoint("GET", "evals/{eval}/runs/{run}"),
    Endpoint("DELETE", "evals/{eval}/runs/{run}"),
    Endpoint("POST", "evals/{eval}/runs/{run}/cancel"),
    Endpoint("GET", "evals/{eval}/runs/{run}/output_items"),
    Endpoint("GET", "evals/{eval}/runs/{run}/output_items/{output_item}"),
)

_THREADS = (
    Endpoint("POST", "assistants", creates="assistant"),
    Endpoint("GET", "assistants", lists="assistant"),
    Endpoint("GET", "assistants/{assistant}"),
    Endpoint("POST", "assistants/{assistant}"),
    Endpoint("DELETE", "assistants/{assistant}"),
    Endpoint("POST", "threads", creates="thread"),
    # The answer is the run, with the new thread's ID as its member `thread_id`.
    Endpoint("POST", "threads/runs", "run", creates="thread", is_metered=False),
    Endpoint("GET", "threads/{thread}"),
    Endpoint("POST", "threads/{thread}"),
    Endpoint("DELETE", "threads/{thread}"),
    Endpoint("GET", "threads/{thread}/messages"),
    Endpoint("POST", "threads/{thread}/messages"),
    Endpoint("GET", "threads/{thread}/messages/{message}"),
    Endpoint("POST", "threads/{thread}/messages/{message}"),
    Endpoint("DELETE", "threads/{thread}/messages/{message}"),
    Endpoint("GET", "threads/{thread}/runs"),
    Endpoint("POST", "threads/{thread}/runs", "run", is_metered=False),
    Endpoint("GET", "threads/{thread}/runs/{run}"),
    Endpoint("POST", "threads/{thread}/runs/{run}"),
    Endpoint("POST", "threads/{thread}/runs/{run}/cancel"),
    Endpoint("POST", "threads/{thread}/runs/{run}/submit_tool_outputs", "run", names_model=False, is_metered=False),
    Endpoint("GET", "threads/{thread}/runs/{run}/steps"),
    Endpoint("GET", "threads/{thread}/runs/{run}/steps/{step}"),
)

PLATFORM_ENDPOINTS = (
    *_MODELS,
    *_RESPONSES,
    *_COMPLETIONS,
    *_MODALITIES,
    *_FILES,
    *_VECTOR_STORES,
    *_JOBS,
    *_THREADS,
)
