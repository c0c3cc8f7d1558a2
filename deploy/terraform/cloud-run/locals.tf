locals {
  settings   = yamldecode(var.config)
  routes     = local.settings.routes
  admin_port = 9787

  # What an upstream's host tells of its service: NAME-NUMBER.REGION.run.app.
  hosts = {
    for route in local.routes : route.name =>
    regexall("^https://([a-z0-9-]+)-[0-9]+\\.([a-z0-9-]+)\\.run\\.app/?$", try(route.upstream, ""))
  }
  told = {
    for name, found in local.hosts : name => { service = found[0][0], location = found[0][1], project = null }
    if length(found) > 0
  }
  called = merge(local.told, var.services)

  # The base URL of each route that has a port of its own, under the name that the app finds it by.
  listens = { for route in local.routes : route.name => try(tostring(route.listen), tostring(route.listen[0]), "") }
  urls = {
    for name, listen in local.listens :
    "IDTOKEN_SIDECAR_URL_${upper(replace(name, "-", "_"))}" => "http://localhost:${split(":", listen)[1]}"
    if can(regex("^(localhost|127\\.0\\.0\\.1):[0-9]+$", listen))
  }

  # Each setting as a variable, which is YAML. Probes want the admin server on all interfaces; only the app's port can be
  # reached from outside the instance.
  environment = merge(
    { for name, value in local.settings : "IDTOKEN_SIDECAR_${upper(name)}" => try(tostring(value), yamlencode(value)) },
    {
      IDTOKEN_SIDECAR_ADMIN = "0.0.0.0:${local.admin_port}"
      GOOGLE_CLOUD_PROJECT  = var.project
    },
  )
}
