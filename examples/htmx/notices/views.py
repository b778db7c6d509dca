from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST, require_safe

from django_eventstream import send_event

from .models import Notice


@require_safe
def show(request, template):
    # Lazy: read when the template comes to it, and that is after the stream's position.
    return render(request, f"notices/{template}.html", {"notices": Notice.objects.all()[:50]})


@require_POST
def post(request):
    if text := request.POST["text"].strip()[:2000]:
        with transaction.atomic():
            notice = Notice.objects.create(text=text)
            html = render_to_string("notices/notice.html", {"notice": notice})
            send_event("notices", "notice", html, json_encode=False)
    return HttpResponse(status=204)
