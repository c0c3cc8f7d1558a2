# A Cloud Run service with idtoken-sidecar beside the app, the service account that both run as, and what that one may call.

resource "google_service_account" "app" {
  project      = var.project
  account_id   = var.name
  display_name = "${var.name} on Cloud Run"
}

resource "google_cloud_run_v2_service_iam_member" "calls" {
  for_each = local.called

  project  = coalesce(each.value.project, var.project)
  location = each.value.location
  name     = each.value.service
  role     = "roles/run.invoker"
  member   = google_service_account.app.member
}

resource "google_cloud_run_v2_service" "app" {
  project  = var.project
  location = var.region
  name     = var.name

  template {
    service_account = google_service_account.app.email

    containers {
      name       = "app"
      image      = var.app_image
      depends_on = ["idtoken-sidecar"] # it starts once the sidecar's startup probe passed, and is stopped before it

      ports {
        container_port = var.app_port
      }

      dynamic "env" {
        for_each = merge(local.urls, var.app_environment)
        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits   = { cpu = "1", memory = "512Mi" }
        cpu_idle = !var.cpu_always
      }
    }

    containers {
      name  = "idtoken-sidecar"
      image = var.image
      args  = ["run"]

      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits   = { cpu = "1", memory = "256Mi" }
        cpu_idle = !var.cpu_always
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = floor(min(240, var.startup_seconds) / 2)

        http_get {
          path = "/healthz/startup"
          port = local.admin_port
        }
      }

      # Each probe also has the tokens looked at.
      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 5
        failure_threshold = 3

        http_get {
          path = "/healthz/live"
          port = local.admin_port
        }
      }
    }
  }

  # Without them the first tokens could be had, and no call would be let in.
  depends_on = [google_cloud_run_v2_service_iam_member.calls]
}
