"""Channels by their names: what they begin with tells who may read them."""

from asgiref.sync import sync_to_async

from django_eventstream.channelmanager import DefaultChannelManager


class ChannelManager(DefaultChannelManager):
    """``loose-…`` is unreliable, ``users-…`` for users, ``group-G-…`` for the members of G."""

    def can_read_channel(self, user, channel):
        if channel.startswith("users-"):
            return user is not None
        if channel.startswith("group-"):
            group = channel.split("-")[1]
            return user is not None and user.groups.filter(name=group).exists()
        if channel.startswith("anonymous-"):
            return user is not None or not _closed_to_anonymous()
        return super().can_read_channel(user, channel)

    def is_channel_reliable(self, channel):
        return not channel.startswith("loose-")


class AsyncChannelManager(ChannelManager):
    """The same with asynchronous methods."""

    async def get_channels_for_request(self, request, view_kwargs):
        return super().get_channels_for_request(request, view_kwargs)

    async def can_read_channel(self, user, channel):
        if channel.startswith("group-"):
            group = channel.split("-")[1]
            return user is not None and await user.groups.filter(name=group).aexists()
        if channel.startswith("anonymous-"):
            return user is not None or not await sync_to_async(_closed_to_anonymous)()
        return super().can_read_channel(user, channel)

    async def is_channel_reliable(self, channel):
        return super().is_channel_reliable(channel)


def _closed_to_anonymous():
    from django.contrib.auth.models import Group  # models are not ready when this is imported

    return Group.objects.filter(name="closed").exists()
