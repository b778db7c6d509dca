from django.urls import path

from . import views

urlpatterns = [
    path("", views.join, name="join"),
    path("<str:room>", views.show_room, name="room"),
    path("rooms/<str:room>/messages/", views.messages, name="messages"),
]
